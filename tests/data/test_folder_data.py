"""A data set of the user's own: what is read from a plain folder, and that mistakes in it are named."""

import csv
import io
import shutil
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from zeromamba.build import load_data_sets
from zeromamba.data import ZSLData, load_dataset, require_decodable, validation_split
from zeromamba.data.tables import composed, read_table
from zeromamba.settings import Settings

COUNTS = {"ant": 10, "bee": 5, "cat, tabby": 4, "dög": 3, "elk": 3, "fox": 6}
PARTS = ("trainval", "test_seen", "test_unseen")
SUFFIXES = ["jpg", "JPEG", "png", "bmp", "webp"]


@pytest.fixture
def pets(tmp_path):
    root = tmp_path / "pets"
    rng = np.random.default_rng(0)
    for name, count in COUNTS.items():
        (root / "images" / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (8, 12, 3), np.uint8)
            Image.fromarray(pixels).save(root / "images" / name / f"{i}.{SUFFIXES[i % 5]}")
    (root / "images/ant/notes.txt").write_text("not an image")
    for hidden in (".cache", "__MACOSX"):
        (root / "images" / hidden).mkdir()
        (root / "images" / hidden / "0.png").touch()
    (root / "attributes.csv").write_text(
        'class,legs,wings,fur\nfox,4,0,1\nant,6,0,0\nbee,6,2,.5\n\n"cat, tabby",4,0,2e0\ndög,4,0,3\nelk,4,1,3\n',
        encoding="utf-8-sig",
    )
    (root / "unseen.txt").write_text("elk\nbee\n\n", encoding="utf-8-sig")
    return root


def load(root, seed=0) -> ZSLData:
    return load_dataset(str(root), root.parent / "elsewhere", seed=seed)


def test_reads_a_folder(pets):
    data = load(pets)
    assert data.name == "pets"
    assert data.class_names == tuple(COUNTS)
    assert data.attribute_names == ("legs", "wings", "fur")
    torch.testing.assert_close(data.Z[1], torch.tensor([6, 2, 0.5]) / 40.25**0.5)
    torch.testing.assert_close(data.Z.norm(dim=1), torch.ones(6))
    assert any("scaled to unit length" in note for note in data.notes)
    assert [data.class_names[c] for c in data.unseen] == ["bee", "elk"]
    assert data.labels.bincount().tolist() == list(COUNTS.values())
    for i, c in enumerate(data.labels):
        assert f"/{data.class_names[c]}/" in data.images.name(i)
        assert data.images.load(i).mode == "RGB"


def test_seen_images_are_split_once_and_by_class(pets):
    data = load(pets)
    parts = torch.cat([data.trainval, data.test_seen, data.test_unseen])
    assert parts.sort().values.tolist() == list(range(31))
    assert data.labels[data.test_seen].bincount(minlength=6).tolist() == [2, 0, 1, 1, 0, 1]
    assert data.test_seen.tolist() == load(pets).test_seen.tolist()
    assert any(load(pets, seed=s).test_seen.tolist() != data.test_seen.tolist() for s in range(1, 4))
    assert torch.isin(data.val_classes, data.seen).all()
    assert any(load(pets, seed=s).val_classes.tolist() != data.val_classes.tolist() for s in range(1, 4))


def test_without_word_vectors_attributes_get_orthonormal_rows(pets):
    data = load(pets)
    torch.testing.assert_close(data.V @ data.V.T, torch.eye(3))
    assert data.word_vectors_source == f"the identity, as there is no {pets / 'word_vectors.csv'}"


def test_word_vectors_from_csv_are_matched_by_name(pets):
    (pets / "word_vectors.csv").write_text("fur,1,2\nlegs,3,4\nwings,5,6\ntail,7,8\n")
    torch.testing.assert_close(load(pets).V, torch.tensor([[3.0, 4], [5, 6], [1, 2]]))


def test_word_vectors_from_npy(pets):
    array = np.arange(1.0, 13).reshape(3, 4)
    np.save(pets / "word_vectors.npy", array)
    torch.testing.assert_close(load(pets).V, torch.from_numpy(array).float())


def test_all_zero_word_vector_is_repaired(pets):
    (pets / "word_vectors.csv").write_text("fur,0,0\nlegs,3,4\nwings,5,6\n")
    data = load(pets)
    torch.testing.assert_close(data.V[2], torch.tensor([4.0, 5]))
    assert any("'fur'" in note for note in data.notes)


@pytest.mark.parametrize("protocol", ["validation", "paper"])
def test_the_data_seed_and_the_protocol_reach_the_data(pets, protocol):
    (pets / "word_vectors.csv").write_text("fur,0,0\nlegs,3,4\nwings,5,6\n")
    (data,) = load_data_sets([Settings(dataset=str(pets), protocol=protocol, seeds=(1,), data_seed=2)])
    assert bool(data.V[2].any()) == (protocol == "validation"), "the paper's keeps an all-zero word vector"
    assert torch.equal(data.test_seen, load(pets, seed=2).test_seen)
    assert not torch.equal(data.test_seen, load(pets, seed=1).test_seen)


def test_attributes_of_a_class_without_images_are_left_out_and_noted(pets):
    with (pets / "attributes.csv").open("a", encoding="utf-8") as file:
        file.write("gnu,4,0,1\n")
    data = load(pets)
    assert "gnu" not in data.class_names
    assert any("gnu" in note for note in data.notes)


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("attributes.csv", "fox,4,0,1", "fix,4,0,1", r"attributes\.csv has no line for these folders .*: 'fox'"),
        ("attributes.csv", "ant,6,0,0", "ant,6_0,0,0", r"attributes\.csv: line 3, column 2: '6_0', expected a finite"),
        ("attributes.csv", "ant,6,0,0", "ant,6,nan,0", r"attributes\.csv: line 3, column 3: 'nan', expected a fin"),
        ("attributes.csv", "ant,6,0,0", "ant,6,,0", r"attributes\.csv: line 3, column 3: '', expected a finite"),
        ("attributes.csv", "ant,6,0,0", "ant,six,0,0", r"attributes\.csv: line 3, column 2: 'six'"),
        ("attributes.csv", "ant,6,0,0", "ant,6,0", r"attributes\.csv: line 3 \('ant'\) has 3 columns, expected 4"),
        ("attributes.csv", "ant,6,0,0", "ant,0,0,0", r"attributes\.csv: all attributes of class 'ant' are zero"),
        ("attributes.csv", "ant,6,0,0", "ant,1e300,0,0", r"the attributes of class 'ant' are too large"),
        ("attributes.csv", "dög,4,0,3", "dög,8,0,2", r"nothing tells 'dög' and 'fox' apart: their attributes"),
        (
            "attributes.csv",
            "bee,6",
            ",6",
            r"attributes\.csv: line 4 has no name in its first column: name it, or remove",
        ),
        ("attributes.csv", "bee,6", "ant,6", r"attributes\.csv: line 4: 'ant' is listed more than once"),
        ("attributes.csv", "class,legs,wings,fur\n", "", r"line 1 must name the attributes; it holds numbers"),
        ("attributes.csv", ",wings,", ",,", r"attributes\.csv: line 1, column 3 has no name"),
        ("attributes.csv", "wings", "legs", r"attributes\.csv: line 1 has the column 'legs' more than once"),
        ("attributes.csv", ",", " ", r"attributes\.csv: one column, expected a name and numbers, separated by com"),
        ("attributes.csv", ",", ";", r"attributes\.csv: one column, it has semicolons, expected .* by commas"),
        ("attributes.csv", ",", "\t", r"attributes\.csv: one column, it has tabs, expected .* by commas"),
        ("attributes.csv", "cat, tabby", "Cat,_tabby", r"no line for .*: 'cat, tabby' \(is it 'Cat,_tabby'\?\)"),
        ("attributes.csv", "cat, tabby", "cat,-tabby", r"no line for .*: 'cat, tabby' \(is it 'cat,-tabby'\?\)"),
        ("unseen.txt", "elk", "emu", r"unseen\.txt: images/ has no folder for 'emu'; .*add the folder, or remove"),
        ("unseen.txt", "elk", "ELK", r"unseen\.txt: images/ has no folder for 'ELK' \(is it 'elk'\?\)"),
        ("unseen.txt", "elk", "bee", r"unseen\.txt: 'bee' is listed more than once"),
        ("unseen.txt", "elk\nbee", "", r"unseen\.txt is empty"),
        ("unseen.txt", "elk", "\n".join(n for n in COUNTS if n != "bee"), r"unseen\.txt lists every class"),
        ("unseen.txt", "elk", "elk\nfox\nant", r"unseen\.txt: 2 seen classes, expected at least 3"),
    ],
)
def test_mistake_in_a_text_file(pets, file, old, new, message):
    edit(pets / file, old, new)
    with pytest.raises(ValueError, match=message):
        load(pets)


@pytest.mark.parametrize(("names", "told"), [(8, "'yak 8'; unseen"), (11, "'yak 8', and 3 more; unseen")])
def test_of_many_names_the_first_are_listed_and_the_others_counted(names, told, pets):
    (pets / "unseen.txt").write_text("\n".join(f"yak {i + 1}" for i in range(names)))
    with pytest.raises(ValueError, match=rf"no folder for 'yak 1', .*, {told} classes"):
        load(pets)


def test_what_hardly_tells_classes_apart_is_noted(pets):
    assert not any("apart" in note for note in load(pets).notes)
    edit(pets / "attributes.csv", "dög,4,0,3", "dög,4,0,1.01")
    assert any("hardly anything tells 'dög' and 'fox' apart" in note for note in load(pets).notes)
    edit(pets / "attributes.csv", "bee,6,2,.5", "bee,6,0,.5")
    edit(pets / "attributes.csv", "elk,4,1,3", "elk,4,0,5")
    assert any("all classes have the same number in 'wings', so" in note for note in load(pets).notes)


def test_a_table_as_excel_may_begin_and_break_it(tmp_path):
    path = tmp_path / "attributes.csv"
    path.write_text("sep=,\nclass,legs\nfox,4\n")
    columns, rows = read_table(path, header=True)
    assert (columns, list(rows)) == (("legs",), ["fox"])
    path.write_text("class,legs,1990\nfox,4,0\n")
    assert read_table(path, header=True)[0] == ("legs", "1990"), "a number may be a name"
    path.write_text('class,"legs\nfox,4\nant,6\n')
    with pytest.raises(ValueError, match=r"attributes\.csv has 1 lines, expected .*: a quotation mark is not closed"):
        read_table(path, header=True)


def test_a_constant_that_scaling_turns_into_a_difference_is_not_called_useless(pets):
    sizes = "".join(f'"{folder.name}",{k + 1},1\n' for k, folder in enumerate(sorted((pets / "images").iterdir())))
    (pets / "attributes.csv").write_text(f"class,size,bias\n{sizes}", encoding="utf-8")
    assert not any("'bias'" in note for note in load(pets).notes)


@pytest.mark.parametrize("name", ["attributes.csv", "unseen.txt"])
def test_text_that_is_not_utf_8(pets, name):
    path = pets / name
    before = path.read_bytes()  # attributes.csv begins with a byte order mark
    path.write_bytes(before + "möwe".encode("cp1252"))
    with pytest.raises(ValueError, match=rf"{name}: byte {len(before) + 2} is not UTF-8; save it as UTF-8"):
        load(pets)


@pytest.mark.parametrize("name", ["images", "attributes.csv", "unseen.txt"])
def test_missing_piece(pets, name):
    shutil.rmtree(pets / name) if name == "images" else (pets / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"pets has no {name}; a data set of your own is a folder with"):
        load(pets)


def test_a_seen_class_needs_three_images(pets):
    """One to train on, one to validate with, one to test with: any fewer, and a run would end after its first epoch."""
    (pets / "images/dög/0.jpg").unlink()
    with pytest.raises(ValueError, match=r"fewer than 3 images .* in 1 of 4 class folders that need them: dög \(2\)"):
        load(pets)


def test_an_unseen_class_needs_one_image(pets):
    for name in ("0.jpg", "1.JPEG"):
        (pets / "images/elk" / name).unlink()
    assert load(pets).labels.bincount()[4] == 1
    (pets / "images/elk/2.png").unlink()
    with pytest.raises(ValueError, match=r"fewer than 1 images .* in 1 of 6 class folders that need them: elk \(0\)"):
        load(pets)


def test_three_images_a_seen_class_train_validate_and_test(pets):
    for name in COUNTS:
        for path in sorted((pets / "images" / name).glob("[3-9].*")):
            path.unlink()
    data = load(pets)
    for part in (data.test_seen, data.trainval):
        assert torch.equal(data.labels[part].unique(), data.seen)
    split = validation_split(data, seed=0)
    assert data.labels[split.train].tolist() == data.labels[split.val_seen].tolist()
    assert len(split.val_unseen)


def test_files_that_are_not_used_are_counted(pets):
    (note,) = [note for note in load(pets).notes if "not used" in note]
    assert note.endswith("images: 1 files are not used: 1 of types other than .jpg .jpeg .png .bmp .webp")
    (pets / "images/ant/notes.txt").unlink()
    assert not any("not used" in note for note in load(pets).notes), "hidden files are skipped silently"
    for path in ("loose.png", "bee/young/1.png", "bee/young/2.txt", "elk/9.tiff"):
        (pets / "images" / path).parent.mkdir(exist_ok=True)
        (pets / "images" / path).touch()
    (note,) = [note for note in load(pets).notes if "not used" in note]
    for words in ("4 files are not used", "1 in no class folder", "2 in subfolders of a class", "1 of types"):
        assert words in note


def test_a_copy_of_a_training_picture_among_the_test_pictures_is_noted(pets):
    data = load(pets)
    first = {part: data.images.paths[indices[0]] for part, indices in vars(data).items() if part in PARTS}
    assert not any("also training pictures" in note for note in data.notes)
    shutil.copy(pets / "images" / first["trainval"], pets / "images" / first["test_seen"])
    (note,) = [note for note in load(pets).notes if "also training pictures" in note]
    pair = " = ".join(sorted([first["trainval"], first["test_seen"]]))
    assert note.endswith(f"images: 1 test pictures are also training pictures: {pair}")
    shutil.copy(pets / "images" / first["test_unseen"], pets / "images" / first["test_seen"])
    with pytest.raises(ValueError, match=r"are the same picture, in a seen class and in an unseen one"):
        load(pets)
    for part in ("test_unseen", "test_seen"):
        (pets / "images" / first[part]).write_bytes(b"")
    with pytest.raises(ValueError, match=r"(?s)2 of 2 images cannot be decoded.*" + first["test_seen"]):
        load(pets)


def test_a_picture_in_two_classes_is_noted(pets):
    data = load(pets)
    one, other = (data.images.paths[data.labels.tolist().index(c)] for c in data.seen[:2])
    shutil.copy(pets / "images" / one, pets / "images" / other)
    (note,) = [note for note in load(pets).notes if "in more than one class" in note]
    assert note.endswith(f"one label is wrong: {one} = {other}")


def test_a_folder_without_faults_is_found_no_fault_with(tiny):
    (note,) = load(tiny).notes
    assert note.startswith(f"{tiny / 'attributes.csv'}: rows of length"), "which is how its numbers are used, no fault"


def test_two_copies_within_a_class_are_no_doubt_about_its_label(pets):
    data = load(pets)
    c = data.labels[data.trainval][0]
    one, other = (data.images.paths[i] for i in data.trainval[data.labels[data.trainval] == c][:2])
    shutil.copy(pets / "images" / one, pets / "images" / other)
    assert not any("in more than one class" in note for note in load(pets).notes)


@pytest.mark.parametrize("of_text", ["NFC", "NFD"])
def test_names_are_compared_as_they_are_read(pets, of_text):
    """macOS may write "ö" as an "o" and a diaeresis; a file is found under its own name alone."""
    expected = load(pets).labels.tolist()
    (pets / "images/dög").rename(pets / "images" / unicodedata.normalize("NFD", "dög"))
    edit(pets / "unseen.txt", "elk", "dög")
    for name in ("attributes.csv", "unseen.txt"):
        (pets / name).write_text(unicodedata.normalize(of_text, (pets / name).read_text("utf-8-sig")), "utf-8")
    data = load(pets)
    assert data.class_names == tuple(COUNTS)
    assert data.labels.tolist() == expected
    assert [data.class_names[c] for c in data.unseen] == ["bee", "dög"]
    assert any("1 files are not used" in note for note in data.notes)
    shutil.copytree(pets / "images/elk", pets / "images/dög")
    with pytest.raises(ValueError, match=r"images has two folders 'dög', which differ only in their encoding"):
        load(pets)


def test_no_class_folders(pets):
    shutil.rmtree(pets / "images")
    (pets / "images").mkdir()
    with pytest.raises(ValueError, match="images has no folders"):
        load(pets)


def test_file_that_is_no_image(pets):
    (pets / "images/elk/2.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"1 of 31 images cannot be decoded:\n.*elk/2\.png"):
        require_decodable(load(pets).images)
    settings = Settings(dataset=str(pets))
    with pytest.raises(ValueError, match=r"1 of 31 images cannot be decoded"):
        load_data_sets([settings])
    assert len(load_data_sets([replace(settings, check_images=False)])) == 1, "as asked for, without a look"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("word_vectors.csv", "fur,1,2\nlegs,3,4\n", r"word_vectors\.csv has no line for the attributes 'wings'"),
        ("word_vectors.csv", "fur,1,2\nlegs,3\nwings,1,2\n", r"word_vectors\.csv: line 2 \('legs'\) has 2 columns"),
        ("word_vectors.csv", "", r"word_vectors\.csv has 0 lines"),
        ("word_vectors.npy", b"\x93NUMPY", r"word_vectors\.npy: cannot be read as a plain numpy array"),
        # a broken header, of which numpy raises tokenize.TokenError, and half an archive: zipfile.BadZipFile
        ("word_vectors.npy", b"\x93NUMPY\1\0\2\0{(", r"word_vectors\.npy: cannot be read as a plain numpy array"),
        ("word_vectors.npy", b"PK\3\4" + bytes(99), r"word_vectors\.npy: cannot be read as a plain numpy array"),
    ],
)
def test_mistake_in_word_vectors(pets, name, content, message):
    (pets / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        load(pets)


def test_word_vectors_in_an_archive_are_refused(pets):
    with (pets / "word_vectors.npy").open("wb") as file:
        np.savez(file, vectors=np.ones((3, 3)))
    with pytest.raises(ValueError, match=r"word_vectors\.npy is an archive of arrays"):
        load(pets)


def test_npy_with_pickled_objects_is_not_loaded(pets):
    np.save(pets / "word_vectors.npy", np.array([{}, {}, {}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"word_vectors\.npy: cannot be read as a plain numpy array"):
        load(pets)


def test_npy_of_wrong_shape(pets):
    np.save(pets / "word_vectors.npy", np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"word_vectors\.npy: word vectors of shape \(2, 3\), expected \(3, v\)"):
        load(pets)


def test_word_vectors_twice(pets):
    np.save(pets / "word_vectors.npy", np.ones((3, 3)))
    (pets / "word_vectors.csv").write_text("fur,1,2\nlegs,3,4\nwings,5,6\n")
    with pytest.raises(ValueError, match=r"word_vectors\.csv and word_vectors\.npy: remove one"):
        load(pets)


TITLE = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=6).map(composed)


@given(
    columns=st.lists(TITLE.map(lambda title: composed(f"a{title}")), min_size=1, max_size=4, unique=True),
    names=st.lists(TITLE, min_size=1, max_size=4, unique=True),
    seed=st.integers(0, 99),
)
def test_any_table_that_a_csv_writer_makes_is_read_back(tmp_path_factory, columns, names, seed):
    numbers = np.random.default_rng(seed).normal(size=(len(names), len(columns)))
    text = io.StringIO()
    csv.writer(text).writerows([["", *columns], *([n, *row] for n, row in zip(names, numbers, strict=True))])
    text.write(" , ,\r\n  \r\n,,,,\r\n")  # as spreadsheets leave them
    path = tmp_path_factory.mktemp("table") / "attributes.csv"
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    back_columns, rows = read_table(path, header=True)
    assert back_columns == tuple(columns)
    assert list(rows) == names
    np.testing.assert_array_equal(np.stack(list(rows.values())), numbers)
