"""What a user of train.py may rely on."""

import json
import math
import re
import shutil
from dataclasses import fields, replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from checkpoints import save_untrained
from commands import REPO, error_of, run_killed, run_python
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

import train
from zeromamba import runs, training
from zeromamba.build import load_data_sets
from zeromamba.checkpoint import load_checkpoint
from zeromamba.data import load_dataset
from zeromamba.machine import CORES
from zeromamba.messages import option
from zeromamba.runs import check_same_run
from zeromamba.settings import Settings, preset

TINY = [
    *("--preset", "small", "--image-size", "32", "--epochs", "2", "--batch-size", "8"),
    *("--workers", "0", "--device", "cpu"),
]


def main(*arguments):
    """What train.py does, without the seconds that a process of its own takes to start."""
    train.main([*map(str, arguments)])


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """The folder of a whole run, never interrupted, and what it printed: train.py as a process of its own."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    process = run_python(REPO / "train.py", "--dataset", tiny, "--out", out, *TINY)
    assert process.returncode == 0, process.stderr
    return out, process.stdout


def test_a_run_leaves_settings_versions_results_checkpoint_and_table(finished, tiny):
    out, printed = finished
    assert Settings.from_json(json.loads((out / "settings.json").read_text()), "").image_size == 32
    versions = json.loads((out / "versions.json").read_text())
    assert (versions["torch"], versions["device"]) == (torch.__version__, "cpu"), "as --device says, GPU or not"
    results = json.loads((out / "results.json").read_text())
    (seed,) = results["seeds"]
    assert results["mean over seeds"]["H"] == {"mean": seed["H"], "deviation": None}
    assert 0 <= seed["czsl"] <= 1
    assert seed["H"] == pytest.approx(
        2 * seed["U"] * seed["S"] / (seed["U"] + seed["S"]) if seed["U"] + seed["S"] else 0
    )
    assert set(seed["per_class"]["czsl"]) == {"class 4", "class 5"}
    assert set(seed["per_class"]["gzsl"]) == {f"class {k}" for k in range(7)}
    assert seed["chosen_by"] == Settings().chosen_by
    assert Settings().chosen_by in " ".join(printed.split())
    assert "chance" in (out / "table.txt").read_text()
    assert not list(out.rglob("*state.pt*")), "of no use any more, and larger than the checkpoint"


def test_the_class_scores_of_every_test_image_are_kept(finished, tiny, tmp_path):
    """With which a reader measures whatever else is of interest; here, the run's own CZSL."""
    folder = finished[0] / "seed-0"
    main("--eval", folder / "model.safetensors", "--out", tmp_path)
    for file in (folder / "scores.npz", tmp_path / "evaluation_scores.npz"):
        with np.load(file) as kept:  # no pickle
            logits, labels, seen = (kept[name] for name in ("logits", "labels", "seen"))
            names, images = kept["class_names"].tolist(), kept["images"].tolist()
        assert (logits.dtype, logits.shape) == (np.float32, (len(images), len(names)))
        assert all((tiny / "images" / image).is_file() for image in images)
        assert [Path(image).parent.name for image in images] == [names[c] for c in labels]
        unseen = ~seen[labels]
        right = np.where(seen, -np.inf, logits)[unseen].argmax(1) == labels[unseen]
        czsl = np.mean([right[labels[unseen] == c].mean() for c in np.unique(labels[unseen])])
        assert czsl == pytest.approx(json.loads((folder / "result.json").read_text())["czsl"])


def scalars(folder):
    """What TensorBoard shows of a fit: (step, value) by name."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


@pytest.mark.parametrize("fit", ["search", "final"])
def test_tensorboard_shows_every_number_of_every_epoch(fit, finished):
    (seed,) = json.loads((finished[0] / "results.json").read_text())["seeds"]
    history = seed["history"][fit]
    shown = scalars(finished[0] / "seed-0" / fit)
    assert shown.keys() == history[0].keys() - {"epoch"}
    for name, points in shown.items():
        assert points == [(record["epoch"], pytest.approx(record[name])) for record in history]


def test_test_images_choose_nothing_by_default(finished):
    """The search is measured on validation images, and no epoch of the final fit is measured at all."""
    (seed,) = json.loads((finished[0] / "results.json").read_text())["seeds"]
    assert all("ausuc" in record for record in seed["history"]["search"])
    assert not any("ausuc" in record for record in seed["history"]["final"])
    assert len(seed["history"]["final"]) == seed["epoch"]
    assert seed["gamma"] == seed["validation"]["gamma"]


@pytest.mark.parametrize("protocol", ["validation", "paper"])
def test_what_was_taken_where_there_was_a_choice_is_noted(protocol, tiny, capsys):
    (data,) = load_data_sets([Settings(dataset=str(tiny), protocol=protocol)])
    printed = capsys.readouterr().out
    assert f"note: word vectors: the identity, as there is no {tiny / 'word_vectors.csv'}" in printed
    names = ", ".join(data.class_names[c] for c in data.val_classes)
    held_out = f"note: classes held out for validation: {names} (2 of 5 seen classes, drawn with seed 0)"
    assert (held_out in printed) == (protocol == "validation"), "the paper's protocol trains on all seen classes"


@pytest.mark.parametrize("step", [2, 4, 7], ids=["first epoch", "second epoch", "final fit"])
def test_a_killed_run_goes_on_to_the_same_bits(step, finished, tiny, tmp_path, capsys):
    out = tmp_path / "killed"
    run_killed("train", "--dataset", tiny, "--out", out, *TINY, step=step)
    assert not (out / "results.json").exists()
    if step == 4:  # as a kill between an epoch's last number and its state would leave it
        with SummaryWriter(str(out / "seed-0" / "search")) as writer:
            writer.add_scalar("loss", 99.0, 2)
    for k, events in enumerate(sorted(out.rglob("events*"))):  # TensorBoard reads in the order of their seconds
        events.rename(events.with_name(f"events.out.tfevents.{k}.earlier"))
    main("--resume", out)
    assert ("search  continues after epoch 1\n" in capsys.readouterr().out) == (step == 4)
    ours, whole = (load_file(folder / "seed-0" / "model.safetensors") for folder in (out, finished[0]))
    assert ours.keys() == whole.keys()
    different = [name for name in whole if not torch.equal(ours[name], whole[name])]
    assert different == []
    losses = scalars(out / "seed-0" / "search")["loss"]
    assert [epoch for epoch, _ in losses] == [1, 2], "none is shown twice"
    assert (2, 99.0) not in losses


def test_a_finished_run_is_not_repeated(finished, tmp_path, capsys):
    out = shutil.copytree(finished[0], tmp_path / "run")
    before = (out / "seed-0" / "model.safetensors").stat().st_mtime_ns
    left = [out / "seed-0" / name for name in ("final/state.pt", "final/.state.pt.9.tmp", ".model.safetensors.9.tmp")]
    for file in left:
        file.touch()  # as a kill at the right moment leaves them
    main("--resume", out)
    assert not any(file.exists() for file in left)
    assert f"seed 0: finished before, read from {out / 'seed-0' / 'result.json'}" in capsys.readouterr().out
    assert (out / "seed-0" / "model.safetensors").stat().st_mtime_ns == before


def test_broken_files_of_a_run_are_named(finished, tmp_path):
    out = shutil.copytree(finished[0], tmp_path / "run")
    result, state = out / "seed-0" / "result.json", out / "seed-0" / "search" / "state.pt"
    data = json.loads((out / "data.json").read_text())
    (out / "data.json").write_text(json.dumps({name: data[name] for name in data if name != "word vectors"}))
    assert "differ from 'tiny" in (message := error_of(train.main, "--resume", out))
    assert "now: word vectors. " in message, "an earlier version did not keep them"
    (out / "data.json").write_text(json.dumps(data))
    for broken in (result.read_text()[:-9], "[1]"):
        result.write_text(broken)
        assert f"{result}: cannot read this file of a run" in error_of(train.main, "--resume", out)
    result.unlink()
    torch.save({"model": torch.ones(9)}, state)
    for size in (None, -5, 100, 0):  # at first a whole one, of another program
        state.write_bytes(state.read_bytes()[:size])
        told = rf"{state}: cannot be read \(.+\): remove it to run this fit again"
        assert re.search(told, error_of(train.main, "--resume", out))


def test_a_state_that_there_is_no_memory_for_is_not_called_broken(finished, tmp_path, monkeypatch):
    """Or it would be removed, with all that was computed."""
    out = shutil.copytree(finished[0], tmp_path / "run")
    (out / "seed-0" / "result.json").unlink()
    (out / "seed-0" / "search" / "state.pt").touch()
    for error in (
        MemoryError("too little"),
        torch.OutOfMemoryError("too little"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: too little"),
        PermissionError(13, "not yours"),
    ):
        monkeypatch.setattr(torch, "load", Mock(side_effect=error))
        message = error_of(train.main, "--resume", out)
        assert "too little" in message or "not yours" in message
        assert "remove" not in message
    monkeypatch.setattr(torch, "load", Mock(side_effect=torch.AcceleratorError("CUDA error")))
    with pytest.raises(torch.AcceleratorError):
        main("--resume", out)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"czsl": None}, "czsl is None: None is neither float or int"),
        ({"H": "0.5"}, "H is '0.5': str is neither float or int"),
        ({"gamma": float("nan")}, "gamma is nan: expected a finite number"),
        ({"chosen_by": 1}, "chosen_by is 1: int is not an instance of str"),
        ([], r"expected an object, got \[\]"),
    ],
    ids=str,
)
def test_a_result_that_no_table_can_show_is_named_before_another_seed_is_trained(finished, tmp_path, change, told):
    """As another version or an edit may leave it."""
    out = shutil.copytree(finished[0], tmp_path / "run")
    whole = json.loads((out / "seed-0" / "result.json").read_text())
    (out / "seed-2").mkdir()
    result = {**whole, **change} if isinstance(change, dict) else change
    (out / "seed-2" / "result.json").write_text(json.dumps(result))
    message = error_of(train.main, "--resume", out, "--seeds", 0, 1, 2)
    assert re.search(rf"{out}/seed-2/result\.json: .*\({told}\): remove it to run this seed again", message)
    assert not (out / "seed-1").exists()


def test_eval_gives_the_run_s_own_numbers_again(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    out, _ = finished
    main("--eval", out / "seed-0" / "model.safetensors")
    (seed,) = json.loads((out / "results.json").read_text())["seeds"]
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if "this run" in line)
    for metric in ("czsl", "U", "S", "H", "ausuc"):
        assert f"{100 * seed[metric]:.1f}" in row
    for name, accuracy in seed["per_class"]["gzsl"].items():
        unseen = "  (unseen)" if name in seed["per_class"]["czsl"] else ""
        assert f"{100 * accuracy:6.1f}  {name}{unseen}" in lines
    assert not any(tmp_path.iterdir()), "nothing is kept unless --out asks for it"


def test_a_checkpoint_of_another_machine_is_evaluated_with_what_this_one_has_and_keeps_its_seed(tiny, tmp_path):
    settings = replace(preset(str(tiny), "small"), image_size=32, device="cuda:7", seeds=(5, 0), workers=0)
    path = save_untrained(tmp_path / "model.safetensors", settings, load_dataset(str(tiny), tiny, seed=0), gamma=0.2)
    main("--eval", path, "--gamma", "0", "--out", tmp_path)
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert (result["checkpoint"], result["seed"], result["gamma"]) == (str(path), 0, 0)


def test_the_paper_s_protocol_says_so_wherever_its_numbers_appear(tiny, tmp_path):
    out = tmp_path / "paper"
    main("--dataset", tiny, "--out", out, *TINY, "--protocol", "paper", "--gamma", "0.3")
    label = Settings(protocol="paper").chosen_by
    (seed,) = json.loads((out / "results.json").read_text())["seeds"]
    assert seed["chosen_by"] == label
    assert seed["gamma"] == 0.3
    history = seed["history"]["final"]
    assert seed["czsl"] == max(record["czsl"] for record in history)
    assert seed["H"] == max(record["H"] for record in history)
    assert "best epochs on test images" in " ".join((out / "table.txt").read_text().split())
    for kind, measures in (("czsl", "CZSL"), ("gzsl", "U, S, H and AUSUC")):
        record = load_checkpoint(out / "seed-0" / f"model_best_{kind}.safetensors").record
        assert record.chosen_by == f"{label}; this is the epoch for {measures}"


BEST_ON_TEST = "best epochs on test images (one for CZSL, another for U, S, H and AUSUC)"


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        (Settings(), "epoch and gamma chosen on validation classes"),
        (Settings(gamma=0.3), "epoch chosen on validation classes, gamma fixed by hand"),
        (Settings(protocol="paper"), f"{BEST_ON_TEST}, gamma fixed by hand (as the released code)"),
        (
            Settings(protocol="paper", components="baseline"),
            f"{BEST_ON_TEST}, gamma fixed by hand for the whole ZeroMamba (as the released code)",
        ),
        (
            Settings(protocol="paper", components="baseline", gamma=0.3),
            f"{BEST_ON_TEST}, gamma fixed by hand (as the released code)",
        ),
    ],
)
def test_how_a_number_was_chosen(settings, label):
    assert settings.chosen_by == label


def test_a_model_trained_on_a_larger_machine_is_used_with_what_this_one_has():
    far = Settings(device="cuda:7", scan="triton", grad_checkpoint=True, workers=1000)
    here = far.anywhere()
    assert (here.device, here.scan, here.grad_checkpoint) == ("auto", "auto", False)
    assert here.workers == Settings.workers
    assert replace(far, workers=0).anywhere().workers == 0


def test_a_gamma_given_by_hand_is_nowhere_said_to_be_chosen(tiny, tmp_path, capsys):
    by_hand = Settings(gamma=0.2).chosen_by
    out = tmp_path / "by hand"
    main("--dataset", tiny, "--out", out, *TINY, "--epochs", "1", "--gamma", "0.2")
    printed = " ".join(capsys.readouterr().out.split())
    assert by_hand in printed
    assert Settings().chosen_by not in printed
    (seed,) = json.loads((out / "results.json").read_text())["seeds"]
    assert (seed["chosen_by"], seed["gamma"]) == (by_hand, 0.2)
    assert load_checkpoint(out / "seed-0" / "model.safetensors").record.chosen_by == by_hand


@pytest.mark.parametrize("off", [0.2, 4e-9])  # all but the same, as where AWA2's are all but 1
def test_eval_names_the_gamma_that_it_was_given_beside_the_checkpoint_s(off, finished, tmp_path):
    checkpoint = finished[0] / "seed-0" / "model.safetensors"
    record = load_checkpoint(checkpoint).record
    gamma = record.gamma + off
    main("--eval", checkpoint, "--gamma", gamma, "--out", tmp_path)
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert result["gamma"] == gamma
    assert result["chosen_by"] == f"{record.chosen_by}; measured with --gamma {gamma} instead of {record.gamma}"


def test_errors_before_training_name_what_is_wrong(tiny, tmp_path, finished, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = ("--out", tmp_path / "run")
    assert "--gamma" in error_of(train.main, "--dataset", tiny, "--protocol", "paper", *out)
    assert "--device" in error_of(train.main, "--dataset", tiny, "--device", "nosuchdevice", *out)
    assert "nowhere.pth" in error_of(train.main, "--dataset", tiny, *TINY, "--weights", tmp_path / "nowhere.pth", *out)
    from_scratch = "to train from scratch, give --weights None, or --preset small"
    assert from_scratch in error_of(train.main, "--dataset", tiny, *out)
    assert from_scratch in error_of(train.main, "--dataset", tiny, "--weights", "none", *out)
    assert "give --weights None" in error_of(train.main, "--dataset", tiny, *TINY, "--weights", "none", *out)
    for backbone, problem in (
        (
            "vim-small",
            "checkpoints/vim_s_midclstok_80p5acc.pth: no such weights file; get it from https://huggingface.co/",
        ),
        ("localvim-small", "no public weights are known for backbone 'localvim-small'"),
    ):
        choice = ("--backbone", backbone, "--weights", "released")
        assert problem in error_of(train.main, "--dataset", tiny, *TINY, *choice, *out)
    file = tmp_path / "file"
    file.touch()
    assert str(file) in error_of(train.main, "--dataset", tiny, *TINY, "--out", file / "run")
    for folder in (file, file / "run"):
        message = error_of(train.main, "--eval", finished[0] / "seed-0" / "model.safetensors", "--out", folder)
        assert message.startswith(f"error: {folder}: cannot write there")
        assert message.endswith("choose a folder you may write with --out")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    message = error_of(train.main, "--dataset", tiny, *TINY, "--scan", "triton", *out)
    assert message.startswith("error: --scan triton: impl='triton' cannot be used: the tensors are on cpu")
    assert message.endswith("--scan auto chooses what can be used")
    assert not (tmp_path / "run").exists()
    assert "--image-size" in error_of(train.main, "--dataset", tiny, *TINY, "--image-size", "64", "--out", finished[0])
    monkeypatch.chdir(tmp_path)
    for given, folder in (tmp_path, tmp_path), ("", Path()):  # that is a shell's variable which is not set
        message = error_of(train.main, "--resume", given)
        assert message.startswith(f"error: {folder / 'settings.json'}: cannot read this file of a run")
        assert message.endswith("give a folder that this version of train.py made")
    assert not (tmp_path / "settings.json").exists()


@pytest.mark.parametrize(
    "setting",
    [
        ("--epochs", "0"),
        ("--batch-size", "0"),
        ("--image-size", "0"),
        ("--lr", "-1"),
        ("--lr-mlp", "0"),
        ("--logit-scale", "0"),
        ("--workers", "-1"),
        ("--weight-decay", "-0.1"),
        ("--lambda-sc", "-0.1"),
        ("--lr", "inf"),
        ("--lambda-sc", "inf"),
        ("--gamma", "nan"),
        ("--drop-path", "1"),
        ("--drop-path", "-0.1"),
        ("--freeze-backbone", "--weights", "None"),
        ("--seeds",),
        ("--seeds", "1", "1"),
        ("--seeds", "-1"),
        ("--seeds", "0", "4294967296"),
        ("--data-seed", "-1"),
        ("--backbone", "huge"),
        ("--nosuch", "1"),
        ("--ev", "1"),
        ("--dataset",),
        ("--preset", "smal"),
    ],
    ids=" ".join,
)
def test_a_setting_out_of_range_is_named(setting, capsys):
    with pytest.raises(SystemExit):
        main(*setting)
    message = capsys.readouterr().err
    assert setting[0] in message
    assert "usage: " not in message, "of the parser before the command line's own"


def test_help_has_every_setting_with_the_value_that_it_would_have(capsys):
    with pytest.raises(SystemExit):
        main("--dataset", "sun", "--preset", "small", "--help")
    shown = " ".join(re.sub("[│,]", " ", capsys.readouterr().out).split())
    for field in fields(train.CommandLine):
        assert f" {option(field.name)} " in shown
    for default in ("nano", "0.2", "64"):
        assert f"(default: {default})" in shown


@pytest.mark.parametrize(
    "wrong",
    [{"components": "Full"}, {"variant": "x"}, {"protocol": "x"}, {"preset": "smal"}, {"scan": "cuda"}],
    ids=str,
)
def test_a_choice_that_there_is_not_is_named_in_python_too(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"--{name} is '{value}': str is not any of "):
        Settings(**wrong)


@pytest.mark.parametrize(
    ("setting", "trained_with"),
    [
        (("--variant", "paper"), "--variant released"),
        (("--backbone", "tiny"), "--backbone nano"),
        (("--components", "baseline"), "--components full"),
        (("--discretization", "zoh"), "--discretization euler"),
        (("--logit-scale", "3"), "--logit-scale 1.0"),
        (("--protocol", "paper"), "--protocol validation"),
        (("--epochs", "7"), "--epochs 2"),
        (("--data-seed", "5"), "--data-seed 0"),
    ],
    ids=lambda setting: setting[0],
)
def test_eval_measures_the_model_that_was_trained(setting, trained_with, finished):
    message = error_of(train.main, "--eval", finished[0] / "seed-0" / "model.safetensors", *setting)
    assert f"was trained with {trained_with}, not {setting[1]}" in message


@pytest.mark.parametrize("file", ["evaluation.json", "evaluation.txt", "evaluation_scores.npz"])
def test_where_eval_writes_is_looked_at_before_it_measures(file, finished, tmp_path, monkeypatch):
    (tmp_path / file).mkdir()
    monkeypatch.setattr(train, "score_split", None)
    message = error_of(train.main, "--eval", finished[0] / "seed-0" / "model.safetensors", "--out", tmp_path)
    assert f"{file} is a folder" in message


def test_a_device_that_cannot_be_read_from_is_refused():
    assert "--device meta cannot be used here" in error_of(train.main, "--device", "meta")


def test_eval_says_what_it_measured_and_with_which_settings(finished, tmp_path, capsys):
    changes = ("--image-size", "64", "--precision", "bf16", "--batch-size", "4", "--workers", "0")
    checkpoint = finished[0] / "seed-0" / "model.safetensors"
    main("--eval", checkpoint, "--out", tmp_path, *changes)
    result = json.loads((tmp_path / "evaluation.json").read_text())
    otherwise = "measured with --image-size 64 instead of 32; measured with --precision bf16 instead of float32"
    assert result["chosen_by"] == f"{Settings().chosen_by}; {otherwise}"
    assert otherwise in " ".join(capsys.readouterr().out.split())
    (seed,) = json.loads((finished[0] / "results.json").read_text())["seeds"]
    assert (result["dataset"], result["seed"], result["epoch"]) == (
        load_checkpoint(checkpoint).record.dataset,
        0,
        seed["epoch"],
    )
    assert (result["settings"]["image_size"], result["settings"]["epochs"]) == (64, 2)


@pytest.fixture
def moved(tiny, tmp_path):
    """The same data set in another place."""
    return shutil.copytree(tiny, tmp_path / "moved")


def test_a_run_goes_on_and_is_evaluated_where_its_data_were_moved(finished, moved, tmp_path, capsys):
    out = shutil.copytree(finished[0], tmp_path / "run")
    (out / "seed-0" / "result.json").unlink()
    main("--resume", out, "--dataset", moved)
    kept = tmp_path / "evaluated"
    main("--eval", out / "seed-0" / "model.safetensors", "--dataset", moved, "--out", kept)
    result = json.loads((kept / "evaluation.json").read_text())
    (seed,) = json.loads((out / "results.json").read_text())["seeds"]
    assert {k: result[k] for k in ("czsl", "H", "per_class")} == {k: seed[k] for k in ("czsl", "H", "per_class")}
    assert (kept / "evaluation.txt").read_text() in capsys.readouterr().out


def test_data_that_changed_since_the_training_are_refused(finished, moved):
    """Else images that were trained on would count as test images, or an epoch go on among other classes."""
    checkpoint = finished[0] / "seed-0" / "model.safetensors"
    shutil.copy(moved / "images/class 0/0.png", moved / "images/class 0/more.png")
    (moved / "unseen.txt").write_text("class 4\n")
    for what in ("--eval", checkpoint), ("--resume", finished[0]):
        message = error_of(train.main, *what, "--dataset", moved)
        assert "unseen classes" in message
        assert "training images" in message
    (moved / "attributes.csv").write_text((moved / "attributes.csv").read_text().replace("large", "big"))
    assert "without 'large', with the unknown 'big'" in error_of(train.main, "--eval", checkpoint, "--dataset", moved)


def test_a_run_finds_its_data_from_any_folder(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "train", Mock())
    monkeypatch.chdir(tiny.parent)
    main("--dataset", tiny.name, "--data-root", "root", "--out", tmp_path / "run", *TINY)
    monkeypatch.chdir(tmp_path)
    main("--resume", "run")
    (first, *_), (resumed, *_) = (call.args for call in train.train.call_args_list)
    assert resumed.to_json() == {**first.to_json(), "dataset": str(tiny), "data_root": str(tiny.parent / "root")}
    for name in ("cub", "sun", "awa2", "imagenet", "demo"):
        assert Settings(dataset=name).to_json()["dataset"] == name


def test_a_run_has_a_folder_of_its_own_under_the_name_of_its_data(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "train", Mock())
    monkeypatch.setattr("time.strftime", lambda _: "now")
    monkeypatch.chdir(shutil.copytree(tiny, tmp_path / "birds"))
    for data in (".", "images/..", str(tiny)):
        main("--dataset", data, *TINY)
    folders = [str(call.args[2]) for call in train.train.call_args_list]
    assert folders == ["runs/birds/now", "runs/birds/now-2", f"runs/{tiny.name}/now"]
    shutil.rmtree("runs")
    Path("runs").touch()
    message = error_of(train.main, "--dataset", ".", *TINY)
    assert "runs/birds/now: cannot write there" in message
    assert message.endswith("choose a folder you may write with --out")


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    command, _ = train.parse(["--out=~/run", "--data-root", "~/data=0", "--weights=~/w=~.pth", "--dataset=~/birds"])
    assert (command.out, command.data_root) == (tmp_path / "run", tmp_path / "data=0")
    assert (command.weights, command.dataset) == (tmp_path / "w=~.pth", str(tmp_path / "birds"))
    assert str(tmp_path / "run") in error_of(train.main, "--resume=~/run")
    assert str(tmp_path / "model.safetensors") in error_of(train.main, "--eval=~/model.safetensors")


@pytest.mark.parametrize("file", ["data.json", "versions.json", "settings.json"])
def test_a_run_that_was_ended_while_its_folder_was_made_is_begun_anew(file, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "train", Mock())
    write, begin = runs.write_json, ("--dataset", tiny, "--out", tmp_path / "run", *TINY)

    def ended(path, value):
        if path.name == file:
            raise KeyboardInterrupt
        write(path, value)

    monkeypatch.setattr(runs, "write_json", ended)
    assert error_of(train.main, *begin) == "interrupted"
    monkeypatch.setattr(runs, "write_json", write)
    main(*begin)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"data.json", "versions.json", "settings.json"}


def test_seeds_that_are_added_to_a_run_join_those_it_has(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "train", Mock())
    main("--dataset", tiny, "--out", tmp_path, *TINY, "--seeds", "2", "0")
    (tmp_path / "versions.json").write_text("those that it began with")
    main("--dataset", tiny, "--out", tmp_path, *TINY, "--seeds", "3", "0")
    assert (tmp_path / "versions.json").read_text() == "those that it began with"
    assert train.train.call_args.args[0].seeds == (2, 0, 3)
    assert json.loads((tmp_path / "settings.json").read_text())["seeds"] == [2, 0, 3]


def test_a_run_that_is_resumed_stays_in_its_folder(finished, tmp_path):
    assert "leave out --out" in error_of(train.main, "--resume", finished[0], "--out", tmp_path)
    other = error_of(train.main, "--resume", finished[0], "--epochs", "5")
    assert f"holds a run with --epochs 2, not 5: continue it by --resume {finished[0]} without this setting" in other
    assert "leave out --eval" in error_of(
        train.main, "--resume", finished[0], "--eval", finished[0] / "seed-0" / "model.safetensors"
    )


def test_a_run_that_is_resumed_in_a_folder_that_cannot_be_written_is_not_sent_elsewhere(finished, monkeypatch):
    monkeypatch.setattr("zeromamba.runs.write_json", Mock(side_effect=PermissionError(13, "Permission denied")))
    message = error_of(train.main, "--resume", finished[0])
    assert message.startswith(f"error: {finished[0]}: cannot write there ([Errno 13] Permission denied)")
    assert message.endswith("make this folder writable")


def test_what_ends_a_run_says_how_to_go_on(tiny, tmp_path, monkeypatch, capsys):
    out = tmp_path / "my run"
    diverged = error_of(train.main, "--dataset", tiny, "--out", out, *TINY, "--lr", "1e30")
    assert "begin a new run with a lower --lr" in diverged
    assert "state.pt" not in diverged, "which an epoch would first have to leave"
    assert f"run folder: {out}" in capsys.readouterr().out.splitlines(), "though it never came to a table"
    for error, told in (KeyboardInterrupt(), f"--resume '{out}'"), (torch.OutOfMemoryError(), "--batch-size"):
        monkeypatch.setattr(train, "train", Mock(side_effect=error))
        assert told in error_of(train.main, "--dataset", tiny, "--out", out, *TINY, "--lr", "1e30")


def test_a_seed_that_diverges_takes_nothing_from_those_before(finished, tmp_path, monkeypatch):
    out = shutil.copytree(finished[0], tmp_path / "run")
    (out / "results.json").unlink()
    monkeypatch.setattr(training, "objective", Mock(side_effect=FloatingPointError("the loss is nan")))
    assert error_of(train.main, "--resume", out, "--seeds", 0, 1) == "error: the loss is nan"
    (seed,) = json.loads((out / "results.json").read_text())["seeds"]
    assert (seed["seed"], seed["versions"]["torch"]) == (0, torch.__version__)


def test_settings_that_came_later_have_their_defaults():
    written = Settings().to_json()
    for later in written:
        earlier = {name: value for name, value in written.items() if name != later}
        assert Settings.from_json(earlier, "file").to_json() == written
    with pytest.raises(ValueError, match=r"file: unknown settings \['later'\]"):
        Settings.from_json({**written, "later": 1}, "file")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("epochs", 2.5, "float is not an instance of int"),
        ("epochs", "20", "str is not an instance of int"),
        ("epochs", 0, "expected at least 1"),
        ("lr", "1e-3", "str is neither float or int"),
        ("lr", math.nan, "expected a finite number"),
        ("seeds", [0, 2**32], "expected 0 to 4294967295"),
        ("gamma", "none", "str did not match any element in the union: float: is neither float or int NoneType: .*"),
        ("check_images", "false", "str is not an instance of bool"),
        ("freeze_backbone", 0, "int is not an instance of bool"),
        ("seeds", [0, 0.5], "item 1 of tuple is not an instance of int"),
        ("seeds", 0, "int is not a tuple"),
        ("data_root", None, "None is not an instance of pathlib.Path"),
        ("weights", 5, "int did not match any element in the union: .*"),
        ("device", None, "None is not an instance of str"),
    ],
)
def test_a_setting_of_another_kind_in_a_file_is_named(name, value, expected):
    """As an edit by hand may leave it; "false" would count as true, and 2.5 epochs as 3."""
    with pytest.raises(ValueError, match=rf"^file: {option(name)} is .*: {expected}$"):
        Settings.from_json({**Settings().to_json(), name: value}, "file")


def test_settings_come_back_from_their_file_as_they_were():
    changed = Settings(
        dataset="cub", data_root=Path("/data"), weights=Path("/weights/w.pth"), seeds=(3, 1), gamma=0.3, drop_path=0.1
    )
    for settings in changed, replace(changed, weights=None), replace(changed, weights="released"):
        assert Settings.from_json(json.loads(json.dumps(settings.to_json())), "file") == settings


def test_only_what_concerns_the_machine_may_change_while_a_run_goes_on():
    begun, folder = Settings(), Path("run")
    elsewhere = {"data_root": Path("/data"), "device": "cuda:1", "workers": 0, "check_images": False, "scan": "torch"}
    check_same_run(begun, replace(begun, **elsewhere, grad_checkpoint=True, seeds=(5,), dataset="/moved/demo"), folder)
    for change in (
        {"batch_size": 4}, {"precision": "bf16"}, {"lr": 0.1}, {"gamma": 0.0}, {"protocol": "paper"}, {"data_seed": 1},
        {"weights": None}, {"image_size": 224}, {"components": "baseline"}, {"preset": "small"}, {"drop_path": 0.0},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rf"holds a run with {option(*change)} .*, not "):
            check_same_run(begun, replace(begun, **change), folder)


def test_presets_are_the_paper_s_settings():
    cub, sun, awa2 = (preset(name, "paper") for name in ("cub", "sun", "awa2"))
    assert [s.lambda_sc for s in (cub, sun, awa2)] == [1.0, 0.2, 0.0]
    for s in (cub, sun, awa2):
        assert (s.backbone, s.image_size, s.batch_size, s.epochs) == ("small", 448, 16, 100)
        assert (s.optimizer, s.lr, s.lr_mlp, s.weight_decay) == ("sgd", 1e-3, 1e-4, 1e-3)
        assert (s.schedule, s.variant, s.logit_scale, s.discretization) == ("step", "released", 1, "euler")
        assert (s.weights, s.freeze_backbone, s.drop_path, s.precision) == ("released", False, None, "float32")
        assert s.gamma is None, "chosen on validation classes unless the paper's protocol is asked for"


def test_the_small_preset_changes_no_more_of_the_paper_s_than_a_small_machine_asks_for():
    for name in ("cub", "sun", "awa2", "birds"):
        small = preset(name, "small")
        assert (small.backbone, small.weights, small.image_size, small.epochs) == ("nano", None, 64, 20)
        assert (small.optimizer, small.schedule) == ("adamw", "cosine")
        assert (small.variant, small.lambda_sc) == ("released", preset(name, "paper").lambda_sc)
    assert preset("demo", "small") == replace(preset("demo", "paper"), preset="small"), "its own under either"


def test_without_a_word_a_run_takes_what_the_machine_has():
    assert Settings().anywhere() == Settings()
    assert Settings().workers <= CORES
