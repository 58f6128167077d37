"""CUB, SUN and AWA2: what is read, and that whatever is wrong with the files is named before training."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
import torch

from zeromamba.build import load_data_sets
from zeromamba.data import BENCHMARKS, load_dataset, require_decodable, validation_split
from zeromamba.settings import Settings


def test_reads_a_benchmark(cub):
    data = cub.load()
    names = ["007.Tern", "002.Wren", "009.Jay", "001.Auk", "003.Owl", "004.Kite", "006.Emu"]
    assert list(data.class_names) == names, "classes without images are left out, the order is the file's"
    assert len(data.images) == 36
    assert data.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6 + [3] * 6 + [4] * 6 + [5] * 3 + [6] * 3
    assert data.seen.tolist() == [0, 1, 2, 3, 4]
    assert data.unseen.tolist() == [5, 6]
    assert (data.trainval + 1).tolist() == cub.att_splits["trainval_loc"].ravel().tolist()
    assert (data.test_seen + 1).tolist() == cub.att_splits["test_seen_loc"].ravel().tolist()
    assert (data.test_unseen + 1).tolist() == cub.att_splits["test_unseen_loc"].ravel().tolist()
    columns = [0, 1, 2, 3, 4, 6, 7]
    torch.testing.assert_close(data.Z, torch.tensor(cub.att_splits["att"].T[columns], dtype=torch.float32))
    torch.testing.assert_close(data.V, torch.tensor(cub.vectors, dtype=torch.float32))
    assert data.attribute_names[4] == "attribute 5"
    assert data.images.name(35) == str(cub.photographs / cub.files[35])
    assert data.images.load(35).size == (16, 24)
    assert data.incomparable.startswith("not the whole of CUB: 36 of 11,788 images")


def test_images_in_no_split_are_left_out(cub):
    cub.att_splits["test_unseen_loc"] = np.array([[32, 36]])
    cub.att_splits["trainval_loc"] = cub.att_splits["trainval_loc"][1:]
    data = cub.load()
    assert len(data.images) == len(data.labels) == 31
    shown = {name: [data.images.name(i) for i in getattr(data, name)] for name in ("test_seen", "test_unseen")}
    assert shown["test_unseen"] == [str(cub.photographs / cub.files[i]) for i in (31, 35)]
    assert shown["test_seen"] == [str(cub.photographs / cub.files[i]) for i in range(2, 30, 3)]
    assert all(data.class_names[c] in data.images.name(i) for i, c in enumerate(data.labels))


def test_attribute_names_are_read_where_there_are_any(cub):
    (cub.root / "CUB/attributes.txt").write_text("".join(f"{i} has_bill::shape {i}\n" for i in range(1, 6)))
    assert cub.load().attribute_names == tuple(f"has_bill::shape {i}" for i in range(1, 6))


@pytest.mark.parametrize("count", [1, 6])
def test_wrong_number_of_attribute_names(cub, count):
    (cub.root / "CUB/attributes.txt").write_text("1 black\n" * count)
    with pytest.raises(ValueError, match=rf"attributes\.txt: {count} attribute names, expected 5"):
        cub.load()


def test_an_all_zero_word_vector_is_repaired_unless_it_is_to_be_kept(cub):
    cub.vectors[2] = 0
    repaired, kept = cub.load(), cub.load(repair_word_vectors=False)
    others = torch.tensor(cub.vectors[[0, 1, 3, 4]]).float()
    torch.testing.assert_close(repaired.V[2], others.mean(0))
    assert not kept.V[2].any()
    for data, told in (repaired, "replaced by the mean of the other rows"), (kept, "kept as released"):
        assert any("'attribute 3'" in note and told in note for note in data.notes)


@pytest.mark.parametrize("count", ["images", "attributes", "seen", "unseen"])
def test_a_data_set_that_lacks_anything_is_said_to_be_a_part(cub, count, monkeypatch):
    whole = replace(BENCHMARKS["cub"], images=36, attributes=5, seen=5, unseen=2)
    for row, told in (whole, False), (replace(whole, **{count: 99}), True):
        monkeypatch.setitem(BENCHMARKS, "cub", row)
        assert cub.load().partial.startswith("not the whole of CUB") == told


def test_what_a_user_should_know_of_the_data_is_noted_before_anything_is_trained(cub, capsys):
    cub.vectors[2] = 0
    (data,) = load_data_sets([Settings(dataset="cub", data_root=cub.write().root)])
    printed = capsys.readouterr().out
    assert data.incomparable
    assert data.notes
    for note in (data.incomparable, *data.notes):
        assert f"note: {note}\n" in printed


def test_classes_that_nothing_tells_apart(cub):
    cub.att_splits["att"][:, 1] = 2 * cub.att_splits["att"][:, 0]
    with pytest.raises(ValueError, match=r"att_splits\.mat: att: nothing tells '007\.Tern' and '002\.Wren' apart"):
        cub.load()


def test_a_text_that_is_not_utf_8_is_named(cub):
    (cub.root / "CUB/attributes.txt").write_bytes("1 à pois\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"attributes\.txt: byte 3 is not UTF-8"):
        cub.load()


def test_a_picture_that_is_listed_twice(cub):
    """It may be one to train on and one to test with, under two numbers that differ."""
    cub.res101["image_files"][2] = cub.res101["image_files"][0]  # images 1 and 3: of trainval_loc and test_seen_loc
    with pytest.raises(ValueError, match=r"res101\.mat: image_files has '.*007\.Tern/000\.jpg' more than once"):
        cub.load()


@pytest.mark.parametrize("field", ["att", "trainval_loc"])
def test_a_sparse_matrix_is_named(cub, field):
    cub.att_splits[field] = scipy.sparse.csc_matrix(cub.att_splits[field].astype(float))
    with pytest.raises(ValueError, match=rf"att_splits\.mat: {field} is a csc_\w+, expected a full matrix"):
        cub.load()


def test_names_in_a_character_matrix_are_read_without_its_blanks(cub):
    expected = cub.load().class_names
    cub.att_splits["allclasses_names"] = np.array(cub.names)  # of 7 and 8 letters
    assert cub.load().class_names == expected


def test_paths_of_another_system_are_read(cub):
    cub.res101["image_files"][0] = rf"C:\data\CUB_200_2011\images\{cub.names[0]}\000.jpg"
    assert cub.load().images.name(0) == str(cub.photographs / cub.files[0])


def test_prototypes_that_are_not_of_unit_length_are_scaled_and_noted(cub):
    unit = cub.load().Z
    cub.att_splits["att"] = 7 * cub.att_splits["att"]
    data = cub.load()
    torch.testing.assert_close(data.Z, unit)
    assert any("rows of length 7 to 7 were scaled" in note for note in data.notes)


class TestValidationClasses:
    def names(self, data):
        return [data.class_names[c] for c in data.val_classes]

    def test_published_list_comes_first(self, cub):
        cub.att_splits["val_loc"] = np.array([[1, 7]])
        cub.splits.mkdir(parents=True)
        listed = "003.Owl\n009.Jay\n004.Kite\n999.Elsewhere\n"
        (cub.splits / "valclasses1.txt").write_text(listed, "utf-8-sig")  # an editor's byte order mark names no class
        data = cub.load()
        assert self.names(data) == ["009.Jay", "003.Owl"], "never an unseen class"
        assert data.val_source == str(cub.splits / "valclasses1.txt")

    def test_classes_of_val_loc(self, cub):
        cub.att_splits["val_loc"] = np.array([[3, 7, 31]])  # 3 is of test_seen, as in the files of 2018; 31 is unseen
        data = cub.load()
        assert self.names(data) == ["007.Tern", "002.Wren"]
        assert "val_loc" in data.val_source
        split = validation_split(data, seed=0)
        assert not torch.isin(data.test_seen, torch.cat(split)).any()

    def test_list_beside_the_split_files(self, cub):
        (cub.root / "proposed_split/CUB").mkdir(parents=True)
        (cub.root / "proposed_split/CUB/valclasses1.txt").write_text("002.Wren\r\n001.Auk")
        assert self.names(cub.load()) == ["002.Wren", "001.Auk"]

    @pytest.mark.parametrize("listed", [["007.Tern"], ["007.Tern", "002.Wren", "009.Jay", "001.Auk"]])
    def test_list_that_leaves_fewer_than_two_classes_is_passed_over(self, cub, listed):
        cub.splits.mkdir(parents=True)
        (cub.splits / "valclasses1.txt").write_text("\n".join(listed))
        data = cub.load()
        assert len(data.val_classes) == 2
        assert "drawn with seed 0" in data.val_source

    def test_random_fifth_depends_on_the_seed_alone(self, cub):
        chosen = [tuple(self.names(cub.load(seed=seed))) for seed in (0, 0, 1, 2, 3)]
        assert chosen[0] == chosen[1]
        assert len(set(chosen)) > 1


@pytest.mark.parametrize("name", BENCHMARKS)
def test_nothing_there_says_what_to_get_and_where_to_put_it(tmp_path, name):
    with pytest.raises(FileNotFoundError) as error:
        load_dataset(name, tmp_path, seed=0)
    row = BENCHMARKS[name]
    for part in (str(tmp_path), row.root, f"xlsa17/data/{row.title}", "xlsa17.zip", row.word_vectors):
        assert part in str(error.value)


def test_truncated_images_are_all_listed(cub):
    for file in cub.files[3:6]:
        path = cub.photographs / file
        path.write_bytes(path.read_bytes()[:-40])
    data = cub.load()
    with pytest.raises(ValueError, match="3 of 36 images cannot be decoded") as error:
        require_decodable(data.images)
    assert all(str(cub.photographs / file) in str(error.value) for file in cub.files[3:6])
    with pytest.raises(ValueError, match=cub.files[4]):
        data.images.load(4)


@pytest.mark.parametrize("label", [0, 9])
def test_label_out_of_range(cub, label):
    cub.res101["labels"][7] = label
    with pytest.raises(ValueError, match=rf"res101\.mat: labels: entry 8 is {label}, expected 1 to 8"):
        cub.load()


@pytest.mark.parametrize("bad", [0, 37, 65535])
@pytest.mark.parametrize("key", ["trainval_loc", "test_seen_loc", "test_unseen_loc"])
def test_index_out_of_range(cub, key, bad):
    cub.att_splits[key] = cub.att_splits[key].astype(np.uint16)
    cub.att_splits[key][2] = bad
    with pytest.raises(ValueError, match=rf"att_splits\.mat: {key}: entry 3 is {bad}, expected 1 to 36"):
        cub.load()


def test_labels_that_are_not_whole(cub):
    cub.res101["labels"] = cub.res101["labels"] + 0.5
    with pytest.raises(ValueError, match=r"res101\.mat: labels are not whole numbers"):
        cub.load()


@pytest.mark.parametrize(
    ("first", "second"),
    [("trainval_loc", "test_seen_loc"), ("trainval_loc", "test_unseen_loc"), ("test_seen_loc", "test_unseen_loc")],
)
def test_image_in_two_splits(cub, first, second):
    cub.att_splits[second] = np.append(cub.att_splits[second], cub.att_splits[first][0])
    with pytest.raises(ValueError, match=f"{first} and {second} overlap in 1 images"):
        cub.load()


def test_image_twice_in_a_split(cub):
    cub.att_splits["trainval_loc"] = np.append(cub.att_splits["trainval_loc"], 1)
    with pytest.raises(ValueError, match="trainval_loc lists 1 images more than once"):
        cub.load()


def test_test_class_that_is_never_trained_on(cub):
    keep = cub.att_splits["trainval_loc"] > 6
    cub.att_splits["trainval_loc"] = cub.att_splits["trainval_loc"][keep]
    with pytest.raises(ValueError, match=r"classes of test_seen_loc have no image in trainval_loc: '007\.Tern'"):
        cub.load()


@pytest.mark.parametrize("key", ["att", "allclasses_names", "trainval_loc", "test_seen_loc", "test_unseen_loc"])
def test_split_file_without_a_needed_field(cub, key):
    del cub.att_splits[key]
    with pytest.raises(ValueError, match=rf"att_splits\.mat: has no field '{key}', only ") as error:
        cub.load()
    assert all(other in str(error.value) for other in cub.att_splits), "the fields found are listed"


@pytest.mark.parametrize("key", ["image_files", "labels"])
def test_image_file_list_without_a_needed_field(cub, key):
    del cub.res101[key]
    with pytest.raises(ValueError, match=rf"res101\.mat: has no field '{key}', only features"):
        cub.load()


def test_split_file_that_is_no_mat_file(cub):
    cub.write()
    (cub.splits / "res101.mat").write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match=r"res101\.mat: cannot be read as a MATLAB file"):
        load_dataset("cub", cub.root, seed=0)


def test_labels_and_paths_of_different_number(cub):
    cub.res101["labels"] = cub.res101["labels"][:-1]
    with pytest.raises(ValueError, match=r"res101\.mat: 35 labels and 36 image_files"):
        cub.load()


def test_attributes_and_classes_of_different_number(cub):
    cub.att_splits["att"] = cub.att_splits["att"].T
    with pytest.raises(ValueError, match=r"att_splits\.mat: att has shape \(8, 5\), expected \(attributes, 8\)"):
        cub.load()


def test_class_name_twice(cub):
    cub.att_splits["allclasses_names"][3] = cub.att_splits["allclasses_names"][0]
    with pytest.raises(ValueError, match=r"allclasses_names has '007\.Tern' more than once"):
        cub.load()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_attribute_that_is_no_number(cub, value):
    cub.att_splits["att"][2, 1] = value
    with pytest.raises(ValueError, match=r"att_splits\.mat: att: attribute 3 of class '002\.Wren' is (nan|inf)"):
        cub.load()


def test_attributes_that_are_not_real_numbers(cub):
    cub.att_splits["att"] = cub.att_splits["att"] + 1j
    with pytest.raises(ValueError, match=r"att_splits\.mat: att has dtype complex128, expected real numbers"):
        cub.load()


def test_class_without_any_attribute(cub):
    cub.att_splits["att"][:, 1] = 0
    with pytest.raises(ValueError, match=r"att: all attributes of class '002\.Wren' are zero"):
        cub.load()


def test_path_of_another_data_set(cub):
    cub.res101["image_files"][0] = "/BS/data/Animals_with_Attributes2//JPEGImages/fox/fox_1.jpg"
    with pytest.raises(ValueError, match=r"res101\.mat: image_files has '/BS.*fox_1.jpg', expected .*CUB_200_2011"):
        cub.load()


@pytest.mark.parametrize("shape", [(6, 300), (300,), (5, 300, 1), (5, 0), (300, 5)])
def test_word_vectors_of_another_shape(cub, shape):
    cub.vectors = np.ones(shape)
    with pytest.raises(ValueError, match=r"CUB_attribute\.pkl: word vectors of shape .*, expected \(5, v\)"):
        cub.load()
