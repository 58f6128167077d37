"""The zero-shot protocol: CZSL accuracy, U, S, H, and the seen-unseen curve over the calibration gamma, eq. (14).

Everything here works on class probabilities and labels in NumPy; the same functions serve validation, the final
test and `--eval`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class GZSL:
    """Generalised accuracies at one gamma, as fractions: unseen U, seen S and their harmonic mean H."""

    gamma: float
    U: float
    S: float

    @property
    def H(self) -> float:
        return 2 * self.U * self.S / (self.U + self.S) if self.U + self.S else 0.0


@dataclass(frozen=True)
class Evaluation:
    """One model on one split; accuracies are fractions.

    `per_class` holds the top-1 accuracy of each class present, by name: unseen classes among unseen candidates under
    "czsl", every class among all candidates under "gzsl".
    """

    czsl: float
    gzsl: GZSL
    ausuc: float
    per_class: dict[str, dict[str, float]]


def per_class_accuracy(predicted: Ints, labels: Ints) -> dict[int, float]:
    """Top-1 accuracy of each class that occurs in `labels`, (m,) each."""
    return {int(c): float(np.mean(predicted[labels == c] == c)) for c in np.unique(labels)}


def class_mean(accuracies: dict[int, float]) -> float:
    """Mean over the classes that are present (Xian et al., the proposed protocol)."""
    return float(np.mean(list(accuracies.values())))


def calibrated(p: Floats, seen: Bools, gamma: float) -> Floats:
    """What (14) takes the largest of: `p - gamma [class is seen]`; p (m, c) probabilities, seen (c,)."""
    return p - gamma * seen


def classify(p: Floats, seen: Bools, gamma: float) -> Ints:
    """Eq. (14): the class (m,) of each image; arguments as `calibrated`."""
    return np.argmax(calibrated(p, seen, gamma), axis=-1)


@dataclass(frozen=True)
class Curve:
    """S and U as functions of gamma: step functions, one of which changes at each of the sorted `steps`.

    S[i] and U[i] (steps + 1 values) hold between steps[i - 1] and steps[i].
    """

    steps: Floats
    S: Floats
    U: Floats

    @property
    def ausuc(self) -> float:
        """Area under the seen-unseen curve over all gamma (Chao et al., ECCV'16)."""
        return float(np.trapezoid(self.S, self.U))

    def at(self, gamma: float) -> GZSL:
        """The accuracies at one gamma; at a step itself those just below it: a tie goes to the seen class."""
        i = int(np.searchsorted(self.steps, gamma))
        return GZSL(gamma=gamma, U=float(self.U[i]), S=float(self.S[i]))

    def best(self) -> GZSL:
        """The gamma of the highest H: the middle of the interval on which H is highest; 0 where H is 0 everywhere."""
        total = self.S + self.U
        H = np.divide(2 * self.S * self.U, total, out=np.zeros_like(total), where=total > 0)
        i = int(np.argmax(H))
        if H[i] == 0:  # as it is at both ends, which U and S make 0: nothing speaks for either side
            return self.at(0.0)
        return GZSL(gamma=float((self.steps[i - 1] + self.steps[i]) / 2), U=float(self.U[i]), S=float(self.S[i]))


def seen_unseen_curve(p: Floats, labels: Ints, seen: Bools) -> Curve:
    """The exact curve: an image leaves the seen side at gamma = its best seen minus its best unseen probability.

    Args:
        p: (m, c) probabilities of images of seen and unseen classes, over all candidates.
        labels: (m,) class indices into the candidates.
        seen: (c,) which candidates are seen; both kinds must occur, among the candidates and the labels.

    Raises:
        TypeError: if seen is not of bool: `~seen`, the unseen ones, would be something else.
        ValueError: if only one kind occurs.
    """
    if seen.dtype != np.bool_:
        raise TypeError(f"seen: expected an array of bool, got {seen.dtype}")
    image_seen = seen[labels]
    if image_seen.all() or not image_seen.any():
        raise ValueError("a seen-unseen curve needs images and candidates of both seen and unseen classes")
    best_seen = np.argmax(np.where(seen, p, -np.inf), axis=-1)
    best_unseen = np.argmax(np.where(seen, -np.inf, p), axis=-1)
    rows = np.arange(len(p))
    leaves_at = p[rows, best_seen] - p[rows, best_unseen]
    right = np.where(image_seen, best_seen, best_unseen) == labels

    count = np.bincount(labels, minlength=len(seen)).astype(np.float64)
    classes = np.where(image_seen, np.sum(seen & (count > 0)), np.sum(~seen & (count > 0)))
    weight = 1 / (count[labels] * classes)  # what an image adds to S or U when it counts as right

    steps, at = np.unique(leaves_at[right], return_inverse=True)  # the others move neither S nor U
    lost = np.bincount(at, weights=(weight * image_seen)[right], minlength=len(steps))
    won = np.bincount(at, weights=(weight * ~image_seen)[right], minlength=len(steps))
    S = np.append(np.cumsum(lost[::-1])[::-1], 0.0)
    U = np.append(0.0, np.cumsum(won))
    return Curve(steps, S, U)


def evaluate(logits: Floats, labels: Ints, seen: Bools, class_names: Sequence[str], gamma: float | None) -> Evaluation:
    """Evaluate class scores by the protocol.

    Args:
        logits: (m, c) scores before the softmax, over all candidates, of seen and unseen images.
        labels: (m,) indices into the candidates.
        seen: (c,) which candidates are seen.
        class_names: (c,) names of the candidates.
        gamma: calibration coefficient; None takes the one with the highest H on these very images, for
            validation images only.

    Raises:
        TypeError, ValueError: as `seen_unseen_curve`.
    """
    p = softmax(logits, axis=-1)
    curve = seen_unseen_curve(p, labels, seen)
    if gamma is None:
        gamma = curve.best().gamma
    accuracies = per_class_accuracy(classify(p, seen, gamma), labels)
    gzsl = GZSL(
        gamma=gamma,
        U=class_mean({c: a for c, a in accuracies.items() if not seen[c]}),
        S=class_mean({c: a for c, a in accuracies.items() if seen[c]}),
    )
    unseen_images = ~seen[labels]
    among_unseen = np.argmax(np.where(seen, -np.inf, logits[unseen_images]), axis=-1)
    czsl = per_class_accuracy(among_unseen, labels[unseen_images])
    by_position = {"czsl": czsl, "gzsl": accuracies}
    per_class = {kind: {class_names[c]: a for c, a in values.items()} for kind, values in by_position.items()}
    return Evaluation(class_mean(czsl), gzsl, curve.ausuc, per_class)
