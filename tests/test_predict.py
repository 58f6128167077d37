"""Naming pictures: what the command says of them is what the evaluation counts."""

import json
import math
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from checkpoints import save_untrained

from zeromamba.build import build_model
from zeromamba.checkpoint import load_checkpoint
from zeromamba.data import ImageDataset, ImageFiles, load_dataset
from zeromamba.evaluation import per_class_accuracy
from zeromamba.measuring import score_split
from zeromamba.model import ZeroShotModel
from zeromamba.predict import Classes, main, predict, read_classes
from zeromamba.protocol import final_split
from zeromamba.settings import preset
from zeromamba.weights import load_safetensors, save_safetensors

README = Path(__file__).parents[1] / "README.md"
GAMMA = 0.01  # of much account to a model that was never trained


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """A data set, the path of a checkpoint on it, and what evaluating that gives."""
    small = replace(preset(str(tiny), "small"), image_size=32, batch_size=5, workers=0, device="cpu")
    settings = replace(small, scan="triton", drop_path=0.5)  # neither is of account where pictures are named
    data = load_dataset(str(tiny), tiny, seed=0)
    torch.manual_seed(0)
    model = build_model(replace(settings, scan="torch"), data.V)
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save_untrained(path, settings, data, model, GAMMA)
    measured = score_split(model, data, final_split(data), settings, torch.device("cpu")).evaluate(GAMMA)
    return data, path, measured


def test_what_the_readme_has_of_python_gives_what_the_command_does(made, tmp_path):
    data, path, _ = made
    i = int(data.test_unseen[0])
    (code,) = re.findall(r"```python\n(from pathlib.*?)```", README.read_text(), re.DOTALL)
    names = {"images": ImageDataset(data.images, torch.tensor([i]), 32)[0][0][None]}
    exec(code.replace("runs/birds/DATE_TIME/seed-0/model.safetensors", str(path)), names)
    (shown,) = predictions(tmp_path, path, data.images.name(i), "--gamma", "0").values()
    psi, p = names["psi"][0], names["scores"][0].double().softmax(dim=-1)
    assert dict(shown["attributes"]) == pytest.approx(dict(zip(data.attribute_names, psi.tolist(), strict=True)))
    assert dict(shown["classes"]) == pytest.approx(dict(zip(data.class_names, p.tolist(), strict=True)))


def predictions(tmp_path, *arguments):
    out = tmp_path / "predictions.json"
    main([*map(str, arguments), "--json", str(out), "--device", "cpu"])
    return json.loads(out.read_text())["pictures"]


def test_a_picture_gets_the_class_that_the_evaluation_gives_it(made, tmp_path):
    data, path, measured = made
    tested = torch.cat([data.test_seen, data.test_unseen]).tolist()
    files = [data.images.name(i) for i in tested]
    found = predictions(tmp_path, path, *files)
    guesses = torch.tensor([data.class_names.index(found[file]["classes"][0][0]) for file in files])
    accuracies = per_class_accuracy(guesses.numpy(), data.labels[tested].numpy())
    assert {data.class_names[c]: a for c, a in accuracies.items()} == measured.per_class["gzsl"]
    for shown in found.values():
        assert sum(p for _, p in shown["classes"]) == pytest.approx(1)
        assert sorted(name for name, _ in shown["attributes"]) == sorted(data.attribute_names)
        strengths = [value for _, value in shown["attributes"]]
        assert strengths == sorted(strengths, reverse=True)
    uncalibrated = predictions(tmp_path, path, *files, "--gamma", "0")
    assert any(found[file]["classes"][0] != uncalibrated[file]["classes"][0] for file in files), "gamma is of account"


@pytest.fixture
def changed(made, tmp_path):
    """A checkpoint whose metadata and tensors are changed."""

    def change(alter):
        state, metadata = load_safetensors(made[1])
        record = json.loads(metadata["zeromamba"])
        alter(record, state)
        save_safetensors(state, tmp_path / "model.safetensors", {"zeromamba": json.dumps(record)})
        return tmp_path / "model.safetensors"

    return change


def test_a_checkpoint_that_does_not_say_what_it_was_trained_on_is_none(changed):
    path = changed(lambda record, _: record.pop("data"))
    with pytest.raises(ValueError, match=r"model\.safetensors: not a zeromamba checkpoint .*'data'"):
        load_checkpoint(path)
    state, metadata = load_safetensors(path)
    save_safetensors(state, path, {"zeromamba": metadata["zeromamba"][:-1]})
    with pytest.raises(ValueError, match=r"model\.safetensors: not a zeromamba checkpoint \(Expecting ',' delimiter"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("gamma", None, "gamma in its metadata is None: None is neither float or int"),  # chosen anew, on test images
        ("gamma", float("nan"), "gamma in its metadata is nan: expected a finite number"),
        ("class_names", "class 0", "class_names in its metadata is 'class 0': str is not a tuple"),
        ("seen", ["0"], r"seen in its metadata is \('0',\): item 0 of tuple is not an instance of int"),
        ("seen", [0, 7], r".* the classes 0, 7 as seen, expected finite numbers for the 7 class_names"),
        ("class_names", ["class 0"], r"Z of shape \(7, 4\) .*, expected finite numbers for the 1 class_names and 4"),
        ("data", [], r"data in its metadata is \(\): tuple is not a dict"),
        ("settings", {"later": 1}, r"unknown settings \['later'\]"),
        ("dataset", 5, "dataset in its metadata is 5: int is not an instance of str"),
    ],
)
def test_metadata_of_another_kind_are_named(changed, name, value, told):
    path = changed(lambda record, _: record.update({name: value}))
    with pytest.raises(ValueError, match=rf"^{path}: {told}"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["Z", "slp.W1"])
def test_a_checkpoint_whose_numbers_are_none_names_no_picture(changed, tiny, name, capsys):
    path = changed(lambda _, state: state[name].view(-1)[:1].fill_(float("nan")))
    with pytest.raises(SystemExit, match=rf"^error: {path}: .*(finite numbers for|not finite: slp\.W1)"):
        main([str(path), str(tiny / "images/class 4"), "--device", "cpu"])
    assert not capsys.readouterr().out


def test_pictures_of_a_folder_among_classes_of_a_table(made, tiny, tmp_path):
    _, path, _ = made
    table = tmp_path / "more.csv"
    table.write_text("class,large,red,green,blue\nclass 1,0,0,1,0\nnever seen,1,1,0,0\n")
    pictures = tiny / "images" / "class 4"
    (tmp_path / "pictures").mkdir()
    for file in pictures.iterdir():
        shutil.copy(file, tmp_path / "pictures")
    for other in ("notes.txt", "._0.png"):  # the latter as macOS leaves it
        (tmp_path / "pictures" / other).touch()
    found = predictions(tmp_path, path, tmp_path / "pictures", "--classes", table, "--gamma", "1")
    assert len(found) == 6
    for shown in found.values():
        assert [name for name, _ in shown["classes"]] == ["never seen", "class 1"], "gamma 1 leaves seen classes last"


def test_the_columns_of_a_table_of_classes_are_found_by_their_names(tmp_path):
    (tmp_path / "more.csv").write_text("class,large,red,green,blue\nnew,1,2,3,4\nold,0,0,0,2\n")
    names, Z = read_classes(tmp_path / "more.csv", ("red", "green", "blue", "large"))
    assert names == ("new", "old")
    torch.testing.assert_close(Z, torch.tensor([[2.0, 3, 4, 1], [0, 0, 30**0.5, 0]]) / 30**0.5)


def test_a_picture_that_cannot_be_read_stops_no_other(made, tiny, tmp_path, capsys):
    _, path, _ = made
    good, bad = tiny / "images" / "class 4" / "0.png", tmp_path / "bad.png"
    bad.write_text("no picture")
    with pytest.raises(SystemExit, match="1 of 3 pictures could not be read"):
        main([str(path), str(good), str(bad), str(good), "--device", "cpu", "--top", "2"])
    printed = capsys.readouterr()
    assert str(bad) in printed.err
    lines = printed.out.splitlines()
    assert (
        printed.err.splitlines()[0]
        == "note: gamma 0.01 is subtracted from the probability of classes that were trained on, eq. (14)"
    )
    assert len(lines) == 2
    for line in lines:
        assert line.startswith(f"{good}: class ")
        assert line.count("class ") == 3


def test_a_file_of_the_released_code_names_no_classes(tiny, tmp_path):
    with pytest.raises(SystemExit, match="released files do not name their classes"):
        main([str(tmp_path / "CUB_bestGZSL.pth"), str(tiny / "images" / "class 4")])


def test_classes_that_were_never_trained_on_are_marked(made, tiny, tmp_path, capsys):
    data, path, _ = made
    out = tmp_path / "new" / "folder" / "predictions.json"
    main([str(path), str(tiny / "images" / "class 4" / "0.png"), "--json", str(out), "--gamma", "0", "--top", "7"])
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(out.read_text())["gamma"] == 0
    assert json.loads(out.read_text())["seen"] == [data.class_names[c] for c in data.seen.tolist()]
    for c, name in enumerate(data.class_names):
        assert re.search(rf"{name} 0\.\d\d( \(unseen\))?", line)[1] == (" (unseen)" if c in data.unseen else None)


def test_where_the_json_goes_is_checked_first(made, tiny, tmp_path, capsys):
    folder = tmp_path / "folder.json"
    folder.mkdir()
    for out, told in (
        (made[1] / "file.json", r"cannot write there \(Not a directory\)"),
        (folder, "is a folder, expected a file"),
    ):
        with pytest.raises(SystemExit, match=f"^error: {out}:? {told}"):
            main([str(made[1]), str(tiny / "images" / "class 4"), "--json", str(out)])
    assert capsys.readouterr().out == ""


def test_what_was_named_before_an_interruption_is_kept(made, tiny, tmp_path, monkeypatch):
    """And nothing of the old file is lost before that."""
    out, pictures = tmp_path / "predictions.json", sorted((tiny / "images" / "class 4").iterdir())
    out.write_text("old")
    load = ImageFiles.load

    def interrupted(images, i):
        assert out.read_text() == "old"
        if i == 5:  # in the second batch
            raise KeyboardInterrupt
        return load(images, i)

    monkeypatch.setattr(ImageFiles, "load", interrupted)
    with pytest.raises(SystemExit, match=r"^interrupted$"):
        main([str(made[1]), *map(str, pictures), "--json", str(out), "--device", "cpu"])
    assert [*json.loads(out.read_text())["pictures"]] == [*map(str, pictures[:5])]


def test_a_device_that_is_too_small_is_told_in_one_line(made, tiny, monkeypatch):
    monkeypatch.setattr(ImageFiles, "load", Mock(side_effect=torch.OutOfMemoryError("too large")))
    with pytest.raises(SystemExit, match=r"^error: too large\n--device cpu uses the machine's main memory$"):
        main([str(made[1]), str(tiny / "images" / "class 4"), "--device", "cpu"])


def test_a_home_folder_is_found(made, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SystemExit, match=f"{tmp_path}/more.csv: no such file of classes"):
        main([str(made[1]), "--classes=~/more.csv"])


@pytest.mark.parametrize("folder", ["images", ""])
def test_pictures_in_subfolders_are_told(folder, made, tiny, tmp_path, capsys):
    with pytest.raises(SystemExit, match=rf"no pictures .*; subfolders have some: give {tiny / 'images'}/\*$"):
        main([str(made[1]), str(tiny / folder)])
    shutil.copytree(tiny / "images", tmp_path / "images")
    shutil.copy(next(tmp_path.glob("images/*/*")), tmp_path / "images")
    (tmp_path / "images/.hidden").mkdir()
    for file in tmp_path.glob("images/*.png"):
        shutil.copy(file, tmp_path / "images/.hidden")
    given = [tmp_path / "images", *(tmp_path / f"images/class {k}" for k in range(6))]
    main([str(made[1]), *map(str, given)])
    assert f"note: pictures in subfolders are left out: {tmp_path / 'images/class 6'}\n" in capsys.readouterr().err


def test_a_gamma_that_is_all_but_1_is_taken_off_in_float64(made):
    """As the evaluation does: in float32 the unseen class would win."""
    unit = 2.0**-24  # between float32's numbers below 1
    unseen = 3 * unit
    logits = torch.tensor([[math.log(1 / unseen - 1), 0.0]])
    model = Mock(return_value=torch.zeros(1, 1), logits=Mock(return_value=logits))
    model.probabilities = partial(ZeroShotModel.probabilities, model)
    classes = Classes(("seen", "unseen"), torch.ones(2, 1), np.array([True, False]), gamma=1 - 6.5 * unit)
    settings = replace(preset("demo", "small"), precision="float32")
    (prediction,) = predict(model, torch.zeros(1, 3, 4, 4, dtype=torch.uint8), classes, ("a",), settings)
    assert [name for name, _ in prediction.classes] == ["seen", "unseen"]


def test_pictures_are_named_in_the_precision_of_the_settings():
    asked = []

    def psi(images):
        asked.append(torch.is_autocast_enabled("cpu"))
        return torch.zeros(1, 1)

    model = Mock(side_effect=psi, probabilities=Mock(return_value=torch.full((1, 2), 0.5)))
    classes = Classes(("seen", "unseen"), torch.ones(2, 1), np.array([True, False]), gamma=0)
    for precision in ("float32", "bf16"):
        settings = replace(preset("demo", "small"), precision=precision)
        predict(model, torch.zeros(1, 3, 4, 4, dtype=torch.uint8), classes, ("a",), settings)
    assert asked == [False, True]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("class,large,red,green,blue\nnew,1,1,0,0\nold,2,2,0,0", "nothing tells 'new' and 'old' apart"),
        ("class,large,red,green,blue\nClass_ 1,0,0,1,0\nCLASS 4,1,1,1,0", r"'Class_ 1' \(is it 'class 1'\?\): spell a"),
        ("class,Large,red,green\nnew,1,1,0", r".*missing: 'blue', 'large'; unknown: 'Large' \(is it 'large'\?\)"),
    ],
)
def test_a_table_of_classes_that_does_not_fit(made, tiny, tmp_path, lines, told):
    table = tmp_path / "more.csv"
    table.write_text(lines)
    with pytest.raises(SystemExit, match=rf"more\.csv: {told}"):
        main([str(made[1]), str(tiny / "images" / "class 4"), "--classes", str(table)])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "no pictures"),
        (("--top", "0"), "--top is 0"),
        (("--gamma", "nan"), "--gamma is nan: expected a finite number"),
        (("--classes", "nowhere.csv"), "nowhere.csv: no such file of classes"),
        ((__file__, "--json", "x.py"), "--json x.py: expected the name of a file"),
    ],
)
def test_errors_before_anything_is_computed(made, tmp_path, capsys, arguments, told):
    with pytest.raises(SystemExit) as end:
        main([str(made[1]), str(tmp_path), *arguments])
    assert told in f"{end.value.code}{capsys.readouterr().err}"
