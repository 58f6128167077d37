"""The protocol's numbers, against definitions applied by hand."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import softmax

from zeromamba.evaluation import GZSL, class_mean, classify, evaluate, per_class_accuracy, seen_unseen_curve


@st.composite
def scored_images(draw):
    """Probabilities, labels and the seen mask of images of at least one seen and one unseen class."""
    seen = np.array([True] * draw(st.integers(1, 4)) + [False] * draw(st.integers(1, 4)))
    m = draw(st.integers(0, 12))
    classes = st.integers(0, len(seen) - 1)
    labels = np.array([0, len(seen) - 1, *draw(st.lists(classes, min_size=m, max_size=m))])
    scores = st.integers(-48, 48).map(lambda n: n / 8)  # equal, or further apart than rounding could mend
    return softmax(draw(hnp.arrays(np.float64, (len(labels), len(seen)), elements=scores)), axis=-1), labels, seen


def test_per_class_accuracy_counts_only_classes_that_are_present():
    """Two of three images of class 0 and the only one of class 1 are right; class 2 has no image but a prediction."""
    accuracies = per_class_accuracy(np.array([0, 0, 2, 1]), np.array([0, 0, 0, 1]))
    assert accuracies == {0: pytest.approx(2 / 3), 1: 1.0}
    assert class_mean(accuracies) == pytest.approx((2 / 3 + 1) / 2)


def test_prediction_subtracts_gamma_from_seen_classes_only():
    p = np.array([[0.5, 0.1, 0.4]])
    seen = np.array([True, True, False])
    assert classify(p, seen, 0.0).tolist() == [0]
    assert classify(p, seen, 0.2).tolist() == [2]
    assert classify(p, seen, -1.0).tolist() == [0]


@given(scored_images(), st.floats(-1.5, 1.5))
def test_curve_is_what_equation_14_gives_at_every_gamma(images, gamma):
    p, labels, seen = images
    curve = seen_unseen_curve(p, labels, seen)
    assume(not np.isclose(curve.steps, gamma, atol=1e-12).any())  # of a tie, argmax decides by index
    point = curve.at(gamma)
    accuracies = per_class_accuracy(classify(p, seen, gamma), labels)
    S = class_mean({c: a for c, a in accuracies.items() if seen[c]})
    U = class_mean({c: a for c, a in accuracies.items() if not seen[c]})
    assert (point.gamma, point.S, point.U) == (gamma, pytest.approx(S), pytest.approx(U))
    reported = evaluate(np.log(p), labels, seen, [str(c) for c in range(len(seen))], gamma).gzsl
    assert (reported.gamma, reported.S, reported.U) == (gamma, pytest.approx(S), pytest.approx(U))


@given(scored_images())
def test_best_gamma_reaches_the_highest_H_of_any_gamma(images):
    p, labels, seen = images
    curve = seen_unseen_curve(p, labels, seen)
    best = curve.best()
    middles = (curve.steps[1:] + curve.steps[:-1]) / 2
    for gamma in (-1.5, *middles, 1.5):
        accuracies = per_class_accuracy(classify(p, seen, gamma), labels)
        U = class_mean({c: a for c, a in accuracies.items() if not seen[c]})
        S = class_mean({c: a for c, a in accuracies.items() if seen[c]})
        H = 2 * U * S / (U + S) if U + S else 0
        assert H <= best.H + 1e-12


@given(scored_images())
def test_ausuc_lies_between_zero_and_the_product_of_the_largest_accuracies(images):
    p, labels, seen = images
    curve = seen_unseen_curve(p, labels, seen)
    assert -1e-12 <= curve.ausuc <= curve.S.max() * curve.U.max() + 1e-12
    assert np.all(np.diff(curve.S) <= 1e-12)
    assert np.all(np.diff(curve.U) >= -1e-12)


def test_best_gamma_is_the_middle_of_all_that_reach_the_highest_H():
    """H is highest from 0.1, where an unseen image is won, to 0.7, where a seen one is lost.

    Between them, at 0.3, an image leaves the seen side whose own class is named on neither: it moves nothing.
    """
    p = np.array([[0.8, 0.1, 0.1, 0.0], [0.5, 0.1, 0.4, 0.0], [0.1, 0.5, 0.2, 0.2], [0.0, 0.9, 0.1, 0.0]])
    curve = seen_unseen_curve(p, np.array([0, 2, 3, 1]), np.array([True, True, False, False]))
    np.testing.assert_allclose(curve.steps, [0.1, 0.7, 0.8])
    assert curve.best() == GZSL(gamma=pytest.approx(0.4), U=0.5, S=1.0)


def test_a_curve_on_which_nothing_is_right_is_zero_everywhere():
    p = np.array([[0.1, 0.4, 0.2, 0.3], [0.3, 0.2, 0.4, 0.1]])
    curve = seen_unseen_curve(p, np.array([0, 3]), np.array([True, True, False, False]))
    assert curve.best() == curve.at(0.0) == GZSL(gamma=0.0, U=0.0, S=0.0)
    assert curve.ausuc == 0


def test_at_a_step_the_tie_goes_to_the_seen_class():
    p, seen = np.array([[0.75, 0.25], [0.25, 0.75]]), np.array([True, False])
    curve = seen_unseen_curve(p, np.array([0, 1]), seen)
    assert curve.steps.tolist() == [-0.5, 0.5]
    assert classify(p, seen, -0.5).tolist() == [0, 0]
    assert curve.at(-0.5) == GZSL(gamma=-0.5, U=0, S=1)
    assert classify(p, seen, 0.5).tolist() == [0, 1]
    assert curve.at(0.5) == GZSL(gamma=0.5, U=1, S=1)


def test_ausuc_of_a_known_curve():
    """One image of each class; gamma loses the seen one at 0.2 and wins the unseen one at 0.4: S = 0 before U = 1."""
    p = np.array([[0.6, 0.4], [0.7, 0.3]])
    curve = seen_unseen_curve(p, np.array([0, 1]), np.array([True, False]))
    np.testing.assert_allclose(curve.steps, [0.2, 0.4])
    assert curve.S.tolist() == [1, 0, 0]
    assert curve.U.tolist() == [0, 0, 1]
    assert curve.ausuc == 0
    assert (curve.best().gamma, curve.best().H) == (0, 0), "no bonus to either side where none helps"
    won_first = seen_unseen_curve(p[::-1], np.array([0, 1]), np.array([True, False]))
    assert won_first.ausuc == 1
    assert won_first.best().gamma == pytest.approx(0.3)
    assert won_first.best().H == 1


def test_where_S_and_U_change_at_the_same_gamma_the_curve_is_a_straight_line():
    """Between the two points, (0, 1) and (1, 0), no gamma leads to any other."""
    curve = seen_unseen_curve(np.array([[0.7, 0.3]] * 2), np.array([0, 1]), np.array([True, False]))
    assert (curve.S.tolist(), curve.U.tolist()) == ([1, 0], [0, 1])
    assert curve.ausuc == 0.5


def test_without_a_gamma_the_best_on_these_images_is_taken_though_it_be_all_but_1():
    """As AWA2's dot products give it; in float32 all these probabilities would be 1."""
    seen_image, unseen_image = 1 - 2e-9, 1 - 6e-9  # the best seen probability minus the best unseen one
    logits = np.log([[1 - 1e-9, 1e-9], [1 - 3e-9, 3e-9]])
    result = evaluate(logits, np.array([0, 1]), np.array([True, False]), ["seen", "unseen"], gamma=None)
    assert 1 - result.gzsl.gamma == pytest.approx(1 - (seen_image + unseen_image) / 2, rel=1e-6)
    assert (result.gzsl.S, result.gzsl.U) == (1, 1)


def test_evaluate_reports_czsl_among_unseen_candidates_only():
    logits = np.array([[5.0, 1, 0], [9, 1, 2], [9, 3, 2]])  # all three look like the seen class 0
    result = evaluate(logits, np.array([0, 2, 1]), np.array([True, False, False]), ["ant", "bee", "cat"], gamma=0.0)
    assert result.czsl == 1.0
    assert (result.gzsl.S, result.gzsl.U, result.gzsl.H) == (1.0, 0.0, 0.0)
    assert result.per_class["czsl"] == {"bee": 1.0, "cat": 1.0}
    assert result.per_class["gzsl"] == {"ant": 1.0, "bee": 0.0, "cat": 0.0}


def test_evaluate_counts_every_class_the_same_however_many_images_it_has():
    """Three images of one class and one of the other; the means over images would be 3/4, 1/2 and 3/4."""
    names = ["ant", "ape", "bee", "cat"]
    images = [  # the class, the one with the highest score, and the one among the unseen
        ("ant", "ant", "bee"),
        ("ant", "ant", "bee"),
        ("ant", "bee", "bee"),
        ("ape", "ape", "bee"),
        ("bee", "bee", "bee"),
        ("bee", "ant", "bee"),
        ("bee", "ant", "cat"),
        ("cat", "cat", "cat"),
    ]
    labels, first, among_unseen = np.array([[names.index(name) for name in image] for image in images]).T
    logits = 2 * np.eye(4)[first] + np.eye(4)[among_unseen]
    result = evaluate(logits, labels, np.array([True, True, False, False]), names, gamma=0.0)
    by_hand = ((2 / 3 + 1) / 2, (1 / 3 + 1) / 2, (2 / 3 + 1) / 2)
    assert (result.gzsl.S, result.gzsl.U, result.czsl) == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("labels", "seen"),
    [([0, 0], [True, False]), ([1, 1], [True, False]), ([0, 1], [True, True]), ([0, 1], [False, False])],
    ids=["no unseen image", "no seen image", "no unseen candidate", "no seen candidate"],
)
def test_a_curve_of_one_kind_alone_is_an_error(labels, seen):
    with pytest.raises(ValueError, match="both seen and unseen"):
        seen_unseen_curve(np.full((2, 2), 0.5), np.array(labels), np.array(seen))


@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_numbers_in_place_of_truth_values_are_refused(dtype):
    """`~` of 1 is -2, which is true."""
    with pytest.raises(TypeError, match="seen: expected an array of bool"):
        evaluate(np.eye(2), np.arange(2), np.array([1, 0], dtype), ("a", "b"), gamma=0.0)
