"""The figure of a benchmark: time forward and backward of each contender, by stage."""

from pathlib import Path
from typing import Any

from benchmarks.cpu_paths import CpuRow
from benchmarks.gpu import Row
from zeromamba.messages import how_to_install


def plot_gpu(rows: list[Row], title: str, path: Path) -> None:
    """A panel for each image size and pass of the whole SS2D in bfloat16: ms over the stage, a line a contender."""
    plt = pyplot()
    shown = [row for row in rows if row.cut == "ss2d" and row.dtype == "bfloat16" and row.figures is not None]
    settings = list(dict.fromkeys((row.size.image, row.size.b) for row in shown))
    figure, axes = plt.subplots(2, max(1, len(settings)), figsize=(3 * max(1, len(settings)), 6), squeeze=False)
    for column, setting in enumerate(settings):
        for axis, field, label in (
            (axes[0, column], "forward_ms", "forward"),
            (axes[1, column], "forward_backward_ms", "forward + backward"),
        ):
            here = [row for row in shown if (row.size.image, row.size.b) == setting]
            for contender in dict.fromkeys(row.contender for row in here):
                own = [row for row in here if row.contender == contender]
                times = [getattr(row.figures, field) for row in own]
                axis.plot([row.size.stage for row in own], times, "o-", label=contender)
            axis.set(title=f"{setting[0]} px, batch {setting[1]}\n{label}", xlabel="stage", ylabel="ms", yscale="log")
            axis.set_xticks([1, 2, 3, 4])
    if settings:
        axes[0, 0].legend(fontsize="small")
    figure.suptitle(title, fontsize="small")
    _save(figure, path)


def plot_cpu(rows: list[CpuRow], title: str, path: Path) -> None:
    """Two panels, forward and backward: ms over the tokens of a map, a line a path."""
    figure, axes = pyplot().subplots(1, 2, figsize=(8, 4))
    for axis, field, label in ((axes[0], "forward_ms", "forward"), (axes[1], "backward_ms", "backward")):
        for name in dict.fromkeys(row.path for row in rows):
            own = [row for row in rows if row.path == name and getattr(row, field) is not None]
            axis.plot([row.side**2 for row in own], [getattr(row, field) for row in own], "o-", label=name)
        axis.set(title=label, xlabel="tokens", ylabel="ms", xscale="log", yscale="log")
    axes[0].legend(fontsize="small")
    figure.suptitle(title, fontsize="small")
    _save(figure, path)


def pyplot() -> Any:
    """matplotlib's, for files.

    Raises:
        SystemExit: matplotlib is missing; it is in the extra `figures`.
    """
    try:
        import matplotlib.pyplot
    except ImportError as error:
        raise SystemExit(f"--plot needs matplotlib: {how_to_install('figures')}") from error
    matplotlib.use("Agg")
    return matplotlib.pyplot


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
