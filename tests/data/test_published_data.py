"""The real split files, word vectors and photographs, where they are at hand."""

import pytest
import torch
from shared import DATA

from zeromamba.data import BENCHMARKS, load_dataset, validation_split
from zeromamba.data.benchmarks import missing_part, read_attribute_names, validation_classes
from zeromamba.data.proposed_split import read_split
from zeromamba.data.word_vectors import read_pickled_array, word_vectors

needs_splits = pytest.mark.skipif(not (DATA / "proposed_split").is_dir(), reason=f"no split files in {DATA}")
needs_images = pytest.mark.skipif(not (DATA / "CUB").is_dir(), reason=f"no photographs in {DATA}")


@needs_splits
@pytest.mark.parametrize(
    ("name", "images", "attributes", "seen", "unseen", "train", "val"),
    [
        ("cub", 11_788, 312, 150, 50, 100, 50),
        ("sun", 14_340, 102, 645, 72, 580, 65),
        ("awa2", 37_322, 85, 40, 10, 27, 13),
    ],
)
def test_full_split_files_have_the_published_counts(name, images, attributes, seen, unseen, train, val):
    row = BENCHMARKS[name]
    folder = DATA / "proposed_split" / row.title
    split = read_split(folder, row.anchor)
    assert len(split.image_paths) == len(set(split.image_paths)) == len(split.labels) == images
    assert split.Z.shape == (seen + unseen, attributes)
    assert (len(split.seen), len(split.class_names)) == (seen, seen + unseen)
    assert sum(map(len, (split.trainval, split.test_seen, split.test_unseen))) == images
    assert split.notes == ()
    assert missing_part(split, row) == ""
    torch.testing.assert_close(split.Z.norm(dim=1), torch.ones(seen + unseen))

    classes, source = validation_classes(split, row, DATA, seed=0)
    assert source.endswith("valclasses1.txt")
    assert len(classes) == val
    assert torch.isin(classes, split.seen).all()
    published = (folder / "trainclasses1.txt").read_text().split()
    rest = [split.class_names[c] for c in split.seen if c not in classes]
    assert sorted(rest) == sorted(published)
    assert len(rest) == train

    names = read_attribute_names(row, DATA, attributes)
    V, notes = word_vectors(read_pickled_array(DATA / row.word_vectors), names, name, repair=True)
    assert V.shape == (attributes, 300)
    assert V.any(1).all()
    assert len(notes) == (1 if name == "sun" else 0)


@needs_splits
def test_labels_agree_with_the_paths():
    for row in BENCHMARKS.values():
        split = read_split(DATA / "proposed_split" / row.title, row.anchor)
        sun = {"/" + name: c for c, name in enumerate(split.class_names)}
        for path, label in zip(split.image_paths, split.labels.tolist(), strict=True):
            folders = path.split("/")[1:-1]
            if row.title == "SUN":  # a/access_road, and i/inn/indoor for inn_indoor
                assert sun["/" + "_".join(folders[1:])] == label
            else:
                assert folders == [split.class_names[label]]


@needs_splits
def test_the_zero_word_vector_of_sun():
    row = BENCHMARKS["sun"]
    names = read_attribute_names(row, DATA, 102)
    array = read_pickled_array(DATA / row.word_vectors)
    V, (note,) = word_vectors(array, names, "SUN_attribute.pkl", repair=False)
    assert torch.where(~V.any(1))[0].tolist() == [88]
    assert "row 88" in note
    repaired, (note,) = word_vectors(array, names, "SUN_attribute.pkl", repair=True)
    assert "row 88" in note
    assert "replaced" in note
    torch.testing.assert_close(repaired[:88], V[:88])
    torch.testing.assert_close(repaired[89:], V[89:])


@needs_images
@pytest.mark.parametrize(
    ("name", "sizes", "seen", "unseen", "val"),
    [("cub", (620, 152, 413), 13, 7, 3), ("awa2", (2880, 720, 1200), 9, 3, 2)],
)
def test_photographs_of_some_classes(name, sizes, seen, unseen, val):
    data = load_dataset(name, DATA, seed=0)
    assert (len(data.trainval), len(data.test_seen), len(data.test_unseen)) == sizes
    assert (len(data.seen), len(data.unseen), len(data.val_classes)) == (seen, unseen, val)
    assert len(data.class_names) == seen + unseen
    assert all(data.class_names[c] in data.images.name(i) for i, c in enumerate(data.labels.tolist()))
    split = validation_split(data, seed=0)
    assert torch.cat(split).sort().values.tolist() == data.trainval.sort().values.tolist()
    assert data.labels[split.val_unseen].unique().tolist() == data.val_classes.tolist()
    assert data.partial.startswith("not the whole of")


@needs_images
def test_sun_without_photographs_says_where_they_are_from():
    with pytest.raises(FileNotFoundError, match=r"(?s)SUN.*https://cs\.brown\.edu"):
        load_dataset("sun", DATA, seed=0)
