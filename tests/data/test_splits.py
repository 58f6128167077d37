"""Validation never meets a test image, whatever the data set; splits keep every class on both sides where they can."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zeromamba.data import validation_split
from zeromamba.data.base import choose_validation_classes, stratified

COUNTS = st.lists(st.integers(1, 12), min_size=1, max_size=6)


@given(counts=COUNTS, share=st.floats(0.01, 0.99), seed=st.integers(0, 9))
def test_stratified_split_is_a_partition_with_every_class_left(counts, share, seed):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    indices = torch.arange(len(labels))
    kept, out = stratified(indices, labels, share, torch.Generator().manual_seed(seed))
    assert torch.cat([kept, out]).sort().values.tolist() == indices.tolist()
    for c, count in enumerate(counts):
        taken = int((labels[out] == c).sum())
        assert taken == (0 if count == 1 else min(max(round(share * count), 1), count - 1))


def test_validation_split(cub):
    data = replace(cub.load(), val_classes=torch.tensor([1, 3]))
    train, val_seen, val_unseen = validation_split(data, seed=0)
    assert torch.cat([train, val_seen, val_unseen]).sort().values.tolist() == data.trainval.tolist()
    assert data.labels[val_unseen].tolist() == [1] * 4 + [3] * 4, "all trainval images of the validation classes"
    assert data.labels[val_seen].tolist() == [0, 2, 4], "a fifth of four images, rounded, of every other class"
    assert data.labels[train].tolist() == [0] * 3 + [2] * 3 + [4] * 3


def test_a_fifth_of_every_other_class_s_images_is_held_out(demo):
    train, val_seen, _ = validation_split(demo, seed=0)
    for c in demo.seen[~torch.isin(demo.seen, demo.val_classes)]:
        kept, held_out = ((demo.labels[indices] == c).sum() for indices in (train, val_seen))
        assert held_out == round(0.2 * float(kept + held_out)) > 1


def test_validation_split_depends_on_the_seed_alone(cub):
    data = cub.load()
    draws = [tuple(validation_split(data, seed=seed).val_seen.tolist()) for seed in (0, 0, 1, 2, 3)]
    assert draws[0] == draws[1]
    assert len(set(draws)) > 1


def test_a_data_set_that_leaves_nothing_to_validate_with_is_refused_when_it_is_loaded(cub):
    of_seen = np.arange(1, 31)
    cub.att_splits["trainval_loc"] = of_seen[of_seen % 6 == 1][:, None]  # one image of each of the five classes
    with pytest.raises(ValueError, match=r"cub: each of the 3 seen classes .* a single image to train on.*add images"):
        cub.load()
    cub.att_splits["trainval_loc"] = of_seen[of_seen % 6 > 2][:, None]
    cub.att_splits["test_seen_loc"] = of_seen[of_seen % 6 == 0][:, None]
    assert len(validation_split(cub.load(), seed=0).val_seen) == 3


@given(count=st.integers(3, 60), seed=st.integers(0, 9))
def test_validation_classes_leave_enough_to_train_on(count, seed):
    seen = torch.arange(count) * 3
    chosen, source = choose_validation_classes(seen, seed, "here")
    assert torch.isin(chosen, seen).all()
    assert len(chosen.unique()) == len(chosen) == max(-(-count // 5), min(2, count - 2))
    assert count - len(chosen) >= 2
    assert f"{len(chosen)} of {count}" in source
