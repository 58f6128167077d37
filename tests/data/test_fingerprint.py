"""Whatever changes of a data set is named where a run goes on or a checkpoint is measured."""

from dataclasses import replace

import pytest
import torch

from zeromamba.data import differences, fingerprints


def swapped(labels):
    """The labels of the first image and of the first one of another class, each for the other."""
    labels, other = labels.clone(), int((labels != labels[0]).nonzero()[0])
    labels[[0, other]] = labels[[other, 0]]
    return labels


@pytest.mark.parametrize(
    ("field", "change", "named"),
    [
        ("attribute_names", lambda names: names[::-1], "attributes"),
        ("Z", lambda Z: Z.roll(1, 0), "attributes of the classes"),
        ("V", lambda V: V.roll(1, 0), "word vectors"),
        ("labels", swapped, "training images"),
        ("trainval", lambda indices: indices[1:], "training images"),
        ("test_seen", lambda indices: indices[1:], "test images"),
        ("test_unseen", lambda indices: indices[1:], "test images"),
        (
            "val_classes",
            lambda classes: torch.tensor([c for c in range(5) if c not in classes][:2]),
            "validation classes",
        ),
        ("trainval", lambda indices: indices.flip(0), ""),
        ("notes", lambda notes: (*notes, "another"), ""),
    ],
)
def test_what_changed_is_named_and_nothing_else(cub, field, change, named):
    data = cub.load()
    changed = replace(data, **{field: change(getattr(data, field))})
    assert differences(fingerprints(data), fingerprints(changed)) == named


def test_a_part_that_an_earlier_version_did_not_keep_counts_as_changed(cub):
    kept = fingerprints(cub.load())
    del kept["word vectors"]
    assert differences(kept, fingerprints(cub.load())) == "word vectors"
