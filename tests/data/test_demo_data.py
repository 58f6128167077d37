"""The demo: the same images everywhere, zero-shot by construction, nothing to download."""

import numpy as np
import torch

from zeromamba.data import load_dataset
from zeromamba.data.demo import COLOURS, SHAPES, TEXTURES, draw


def pixels(data, i):
    return np.asarray(data.images.load(i))


def test_classes_are_all_combinations(demo):
    combinations = {f"{c} {t} {s}" for c in COLOURS for t in TEXTURES for s in SHAPES}
    assert set(demo.class_names) == combinations
    assert len(demo.class_names) == 48
    for name, z in zip(demo.class_names, demo.Z, strict=True):
        assert {demo.attribute_names[i] for i in z.nonzero()} == set(name.split())
    torch.testing.assert_close(demo.Z.norm(dim=1), torch.ones(48))


def test_seen_unseen_and_validation_classes(demo):
    assert torch.cat([demo.seen, demo.unseen]).sort().values.tolist() == list(range(48))
    assert len(demo.unseen) == 10
    assert len(demo.val_classes) == 8
    assert torch.isin(demo.val_classes, demo.seen).all()
    assert demo.labels[demo.trainval].unique().tolist() == demo.seen.tolist()
    assert demo.labels[demo.test_seen].unique().tolist() == demo.seen.tolist()
    assert demo.labels[demo.test_unseen].unique().tolist() == demo.unseen.tolist()


def test_each_attribute_and_each_colour_with_each_shape_is_trained_on(demo):
    held_out = torch.cat([demo.unseen, demo.val_classes]).tolist()
    trained = [name.split() for c, name in enumerate(demo.class_names) if c not in held_out]
    assert {(colour, shape) for colour, _, shape in trained} == {(c, s) for c in COLOURS for s in SHAPES}
    assert {texture for _, texture, _ in trained} == set(TEXTURES)
    for group in (demo.unseen, demo.val_classes):
        assert (demo.Z[group] > 0).sum(0).min() >= 2, "each attribute is tested in two classes or more"


def test_images_are_partitioned(demo):
    parts = torch.cat([demo.trainval, demo.test_seen, demo.test_unseen])
    assert parts.sort().values.tolist() == list(range(len(demo.images)))


def test_the_same_images_whenever_it_is_drawn(demo, tmp_path):
    again = load_dataset("demo", tmp_path, seed=3)
    assert all((pixels(demo, i) == pixels(again, i)).all() for i in range(0, len(demo.images), 97))


def test_an_image_depends_on_its_generator_alone(demo):
    assert (pixels(demo, 5) == draw(0, 0, 0, np.random.default_rng([0, 5]))).all()
    assert not (pixels(demo, 5) == draw(0, 0, 0, np.random.default_rng([1, 5]))).all()


def test_no_image_is_there_twice(demo):
    assert len({pixels(demo, i).tobytes() for i in range(len(demo.images))}) == len(demo.images)


def test_an_image_shows_its_colour():
    for k, colour in enumerate(COLOURS):
        image = draw(1, k, 0, np.random.default_rng(k)).astype(float)
        r, g, b = image[image.max(2) - image.min(2) > 100].mean(0)
        shown = {
            "red": r > 2 * max(g, b),
            "yellow": min(r, g) > 2 * b,
            "green": g > 1.5 * max(r, b),
            "blue": b > 1.5 * max(r, g),
        }
        assert shown[colour], (colour, r, g, b)


def test_each_shape_and_texture_is_drawn_otherwise():
    for k in range(3):  # all that is random being the same
        drawn = {draw(s, 0, t, np.random.default_rng(k)).tobytes() for s in range(4) for t in range(3)}
        assert len(drawn) == 12
