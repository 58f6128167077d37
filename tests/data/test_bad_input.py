"""Each bad input ends train.py with one sentence that names file and field, before anything is trained or written."""

import os
import pickle
import re
import sys
from dataclasses import replace
from pathlib import Path

import commands
import numpy as np
import pytest
import torch
from checkpoints import save_untrained
from harmful import Harmful
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import train
from zeromamba.checkpoint import Checkpoint, Record
from zeromamba.data import load_dataset
from zeromamba.settings import preset

TINY = ("--preset", "small", "--image-size", "32", "--epochs", "1", "--workers", "0", "--device", "cpu")


@pytest.fixture
def error_of(cub, tmp_path, monkeypatch):
    """Run train.py on the small CUB, and return the sentence that it ends with."""
    monkeypatch.chdir(tmp_path)

    def trained(*_):
        pytest.fail("it went on to train")

    monkeypatch.setattr(train, "train", trained)
    monkeypatch.setattr(train, "evaluate", trained)

    def run(*arguments, dataset="cub"):
        out = tmp_path / "run"
        common = ("--dataset", dataset, "--data-root", cub.root, *TINY, "--out", out)
        message = commands.error_of(train.main, *common, *arguments)
        assert not out.exists()
        assert not (tmp_path / "ran").exists()
        return message

    return run


def spoil_image(cub):
    path = cub.photographs / cub.files[3]
    path.write_bytes(path.read_bytes()[:-40])


def spoil_overlap(cub):
    cub.att_splits["test_unseen_loc"] = np.append(cub.att_splits["test_unseen_loc"], 1)[:, None]


def spoil_class_overlap(cub):
    cub.res101["labels"][31] = 1


BAD = {
    "missing image": (
        lambda cub: (cub.photographs / cub.files[3]).unlink(),
        ("1 of 36 images are missing", "007.Tern/003.jpg", "python -m zeromamba.data.get cub"),
    ),
    "truncated JPEG": (spoil_image, ("1 of 36 images cannot be decoded", "007.Tern/003.jpg")),
    "label out of range": (lambda cub: cub.res101["labels"].__setitem__(4, 9), ("res101.mat: labels", "entry 5 is 9")),
    "image seen and unseen": (spoil_overlap, ("att_splits.mat", "trainval_loc and test_unseen_loc overlap")),
    "class seen and unseen": (spoil_class_overlap, ("att_splits.mat", "both seen (trainval_loc)", "'007.Tern'")),
    "no needed key": (lambda cub: cub.att_splits.pop("trainval_loc"), ("att_splits.mat", "no field 'trainval_loc'")),
    "word vectors' shape": (
        lambda cub: setattr(cub, "vectors", np.ones((6, 300))),
        ("CUB_attribute.pkl", "shape (6, 300), expected (5, v)"),
    ),
    "NaN attribute": (
        lambda cub: cub.att_splits["att"].__setitem__((2, 1), np.nan),
        ("att_splits.mat: att", "attribute 3 of class '002.Wren'", "nan"),
    ),
    "pickle that runs code": (
        lambda cub: setattr(cub, "vectors", Harmful()),
        ("CUB_attribute.pkl", "would run code", f"{os.name}.mkdir"),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data(cub, error_of, case):
    spoil, told = BAD[case]
    spoil(cub)
    cub.write()
    message = error_of()
    for words in told:
        assert words in message


def test_unknown_data_set(cub, error_of, tmp_path):
    message = error_of(dataset="cubs")
    assert f"unknown data set 'cubs': expected demo, cub, sun, awa2, imagenet, or the path, from {tmp_path}," in message
    assert "unknown data set 'SUN' (is it 'sun'?): expected" in error_of(dataset="SUN")


def test_missing_data(tmp_path, error_of):
    message = error_of(dataset="awa2")
    assert "xlsa17/data/AWA2/att_splits.mat" in message
    assert "python -m zeromamba.data.get awa2" in message


@pytest.mark.parametrize("out", ["file/run", "/proc/run"])
def test_unwritable_folder(cub, error_of, tmp_path, out):
    cub.write()
    (tmp_path / "file").touch()
    message = error_of("--out", out)
    assert f"error: {out}: cannot write there" in message
    assert "choose a folder you may write with --out" in message


@pytest.fixture
def checkpoint(cub, tmp_path):
    """A checkpoint of the small CUB, and a way to change its tensors."""
    cub.write()
    settings = replace(preset("cub", "small"), epochs=1, data_root=cub.root)
    data = load_dataset("cub", cub.root, seed=0)
    path = save_untrained(tmp_path / "model.safetensors", settings, data)

    def change(alter):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        tensors = load_file(path)
        alter(tensors)
        save_file(tensors, path, metadata)
        return path

    return change


@pytest.mark.parametrize(
    ("alter", "told"),
    [
        (lambda state: state.pop("slp.W1"), "slp.W1"),
        (lambda state: state.update(extra=torch.ones(1)), "extra"),
        (lambda state: state.update({"slp.W1": torch.ones(2, 2)}), "slp.W1"),
        (lambda state: state.pop("Z"), "not a zeromamba checkpoint (its metadata or tensors lack 'Z')"),
        (lambda state: state.pop("slp.V"), "slp.V"),
    ],
    ids=["missing key", "extra key", "another shape", "no prototypes", "no word vectors"],
)
def test_bad_checkpoint(checkpoint, error_of, alter, told):
    path = checkpoint(alter)
    message = error_of("--eval", path)
    assert str(path) in message
    assert told in message


def test_checkpoint_of_another_data_set(checkpoint, error_of, tiny):
    message = error_of("--eval", checkpoint(lambda state: None), dataset=str(tiny))
    assert f"is a checkpoint of 'cub' with 7 classes, but {tiny.name!r} has 7, without" in message


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["wings", "fur"], "has 2, without 'legs'"),
        (["legs", "wings", "fur", "tail"], "has 4, with the unknown 'tail'"),
        (["legs", "paws"], "has 2, without 'wings', 'fur', with the unknown 'paws'"),
        (["fur", "legs", "wings"], "has 3, the same in another order"),
    ],
)
def test_checkpoint_of_other_attributes(cub, names, told):
    data = replace(cub.load(), attribute_names=("legs", "wings", "fur"))
    record = Record.of(data, settings=preset("cub", "small"), seed=0, epoch=1, gamma=0, chosen_by="")
    checkpoint = Checkpoint(record, {}, data.Z, Path("model.safetensors"))
    checkpoint.check_fits(data)
    told = f"model.safetensors is a checkpoint of 'cub' with 3 attributes, but 'cub' {told}: give the data set it was"
    with pytest.raises(ValueError, match=f"^{re.escape(told)}"):
        checkpoint.check_fits(replace(data, attribute_names=tuple(names)))


def test_checkpoint_of_a_data_set_whose_numbers_changed(checkpoint, error_of, cub):
    path = checkpoint(lambda state: None)
    cub.att_splits["att"] = cub.att_splits["att"][:, ::-1]
    cub.write()
    assert "before it changed: attributes of the classes differ from what 'cub' is now" in error_of("--eval", path)


@pytest.mark.parametrize("option", [("--weights",), ("--protocol", "paper", "--eval")], ids=["weights", "eval"])
@pytest.mark.parametrize("content", [{"model": Harmful()}, {"model": {"pos_embed": 1.0}}, [1, 2]])
def test_released_file_that_runs_code_or_is_of_another_model(cub, error_of, tmp_path, option, content):
    cub.write()
    path = tmp_path / "released.pth"
    torch.save(content, path)
    assert str(path) in error_of(*option, path)


@pytest.mark.parametrize("option", ["--weights", "--eval"])
def test_plain_pickle_that_runs_code(cub, error_of, tmp_path, option):
    cub.write()
    path = tmp_path / "released.pth"
    path.write_bytes(pickle.dumps(Harmful(), protocol=2))
    assert str(path) in error_of("--protocol", "paper", option, path)


def test_released_checkpoint_without_a_gamma(cub, error_of, tmp_path):
    """Without one, gamma would be chosen on the test images; no image is decoded to find that out."""
    spoil_image(cub)
    cub.write()
    path = tmp_path / "CUB_bestGZSL.pth"
    path.touch()
    assert "gamma: give --dataset cub, sun or awa2, and --protocol paper" in error_of("--eval", path)


def test_what_is_no_checkpoint(cub, error_of, tmp_path):
    cub.write()
    (tmp_path / "words.pth").write_text("hi")  # which an unpickler looks up in its memory
    assert "words.pth: not a whole PyTorch checkpoint" in error_of(
        "--protocol", "paper", "--eval", tmp_path / "words.pth"
    )
    assert "nowhere.pt: no such weights file" in error_of("--eval", tmp_path / "nowhere.pt")
    (tmp_path / "seed-0").mkdir()
    (tmp_path / "seed-0" / "model.safetensors").touch()
    assert "is a folder: give a file of weights, as " in error_of("--eval", tmp_path / "seed-0")
    other = tmp_path / "seed-0/model_best_czsl.safetensors"  # what the paper's protocol leaves
    assert f"{other}: no such weights file, beside it model.safetensors" in error_of("--eval", other)


@pytest.mark.parametrize("option", [("--backbone", "tiny", "--weights"), ("--eval",)], ids=["weights", "eval"])
def test_weights_that_are_missing_are_found_before_an_image_is_decoded(cub, error_of, option):
    spoil_image(cub)
    cub.write()
    assert "nowhere.pth: " in error_of(*option, "nowhere.pth")
    (cub.splits / "res101.mat").unlink()
    message = error_of(*option, "nowhere.pth")
    assert "nowhere.pth: " in message
    assert "res101.mat" in message, "what is missing of the data set is named with it"


def test_a_backbone_that_cannot_be_imported_is_found_before_an_image_is_decoded(cub, error_of, monkeypatch):
    spoil_image(cub)
    cub.write()
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "pip install -e '.[vit]'" in error_of("--backbone", "deit-small")
