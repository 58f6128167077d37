"""Figure 7: U, S and H as functions of the calibration gamma of (14)."""

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from scipy.special import softmax

from ..evaluation import GZSL, Curve, seen_unseen_curve
from ..measuring import score_split
from ..protocol import final_split
from .run import Command, Run
from .style import BLUE, GREEN, GREY, ORANGE, new_figure

SHOWN = (
    "U, S: accuracy on unseen and seen classes with all classes as candidates, H: their harmonic mean. Drawn on test "
    "images after the fact: the figure chooses nothing, the dotted line is the γ of the run."
)


def gamma_curve(run: Run) -> tuple[Curve, GZSL]:
    """The exact seen-unseen curve on the test images, and the accuracies at the run's own gamma."""
    scores = score_split(run.model, run.data, final_split(run.data), run.settings, run.device)
    curve = seen_unseen_curve(softmax(scores.logits, axis=-1), scores.labels, scores.seen)
    return curve, curve.at(run.checkpoint.record.gamma)


def draw(curve: Curve, chosen: GZSL, caption: str) -> Figure:
    """Step functions from gamma 0 to where nothing changes any more, in percent, the chosen gamma marked."""
    steps = curve.steps
    low, high = min(0.0, 1.1 * chosen.gamma), 1.1 * max(chosen.gamma, *steps[-1:], 0.01)
    edges = np.concatenate([[low], steps[(low < steps) & (steps < high)], [high]])
    points = [curve.at(gamma) for gamma in edges]
    with new_figure(3.0, caption, width=4.8) as figure:
        axes = figure.subplots()
        for name, colour, line in (("U", BLUE, "-"), ("S", ORANGE, "--"), ("H", GREEN, "-.")):
            values = [100 * getattr(point, name) for point in points]
            at = 100 * getattr(chosen, name)
            # S[i] holds up to and with steps[i]: the value at an edge is that of the interval that it ends
            axes.step(edges, values, where="pre", color=colour, linestyle=line, label=f"{name} {at:.1f}")
            axes.plot(chosen.gamma, at, "o", color=colour, markersize=4)
        axes.axvline(chosen.gamma, color=GREY, linewidth=0.8, linestyle=":")
        axes.set(xlim=(low, high), ylim=(0, 100), xlabel="calibration γ", ylabel="mean per-class accuracy, %")
        axes.legend(title=f"at γ = {chosen.gamma:.3g}", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


@dataclass(frozen=True)
class Gamma(Command):
    """Like Figure 7: U, S and H over gamma on the test images; the figure chooses nothing."""

    def draw(self, run: Run) -> Figure:
        """The figure; prints the accuracies at the run's gamma."""
        curve, chosen = gamma_curve(run)
        print(f"gamma {chosen.gamma:.4g}: U {100 * chosen.U:.1f}, S {100 * chosen.S:.1f}, H {100 * chosen.H:.1f}")
        return draw(curve, chosen, run.caption(SHOWN))
