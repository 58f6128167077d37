"""Released checkpoints under our names, strictly; safetensors that are never half written."""

import errno
import os
import pickle
from dataclasses import replace
from unittest.mock import Mock

import pytest
import released
import torch
from harmful import Harmful
from safetensors.torch import save_file
from torch import nn

from zeromamba import build, files
from zeromamba.ablations import Baseline
from zeromamba.backbones import ImageNetClassifier, build_backbone
from zeromamba.backbones.vmamba import RELEASED
from zeromamba.build import load_pretrained
from zeromamba.checkpoint import RELEASED as ZEROMAMBA
from zeromamba.checkpoint import adopt_released
from zeromamba.model import ZeroMamba
from zeromamba.settings import Settings, preset
from zeromamba.weights import load_safetensors, load_strict, save_safetensors


@pytest.fixture(scope="module")
def frozen():
    return released.frozen()


@pytest.fixture
def checkpoint(frozen):
    """A released VMamba state dict: the real names and shapes, our numbers."""
    return released.formula_state(frozen.vmamba)


@pytest.fixture
def classifier():
    return ImageNetClassifier(released.small_vmamba())


def zeromamba(variant="released"):
    return ZeroMamba(released.small_vmamba(), torch.ones(released.ATTRIBUTES, 300), variant)


def test_every_released_parameter_has_its_place(tmp_path, checkpoint, classifier):
    torch.save({"model": checkpoint}, tmp_path / "vssm.pth")
    state = RELEASED.load(tmp_path / "vssm.pth")
    load_strict(classifier, state, "vssm.pth")
    assert len(state) == len(checkpoint) == len(classifier.state_dict())
    assert sum(t.sum().item() for t in state.values()) == pytest.approx(
        sum(t.sum().item() for t in checkpoint.values()), rel=1e-3
    )


def test_newer_layouts_give_the_same_state(checkpoint):
    newer = {}
    for key, tensor in checkpoint.items():
        if key.endswith(("x_proj_weight", "dt_projs_weight")):
            newer[key.replace("_weight", ".weight")] = tensor.flatten(0, 1)
        elif key.endswith(("in_proj.weight", "out_proj.weight", "fc1.weight", "fc2.weight")):
            newer[key] = tensor[:, :, None, None]
        else:
            newer[key] = tensor
    ours, theirs = RELEASED.rename(checkpoint, "old"), RELEASED.rename(newer, "new")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_missing_left_over_and_misshapen_keys_are_named_and_nothing_is_loaded(checkpoint, classifier):
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    state = RELEASED.rename(checkpoint, "vssm.pth")
    del state["backbone.stem.conv1.bias"]
    state["backbone.stages.9.norm.weight"] = torch.ones(3)
    state["head.weight"] = torch.ones(10, 64)
    with pytest.raises(ValueError, match=r"^vssm\.pth: ") as error:
        load_strict(classifier, state, "vssm.pth")
    for part in (
        "missing: backbone.stem.conv1.bias",
        "left over: backbone.stages.9.norm.weight",
        "of another shape: head.weight (10, 64) instead of (1000, 64)",
    ):
        assert part in str(error.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in classifier.state_dict().items())


@pytest.mark.parametrize("key", ["layers.0.blocks.0.op.conv2d.bias", "pos_embed", "layers.0.blocks.0.op.Ds2"])
def test_a_key_of_another_vmamba_is_refused(checkpoint, key):
    with pytest.raises(ValueError, match=f"vssm.pth: keys that VMamba v2 has no place for: {key}"):
        RELEASED.rename(checkpoint | {key: torch.ones(1)}, "vssm.pth")


def test_entries_that_are_no_named_tensors_are_refused(checkpoint):
    with pytest.raises(ValueError, match=r"vssm\.pth: keys that VMamba v2 has no place for: 0, classifier\.head\.bias"):
        RELEASED.rename(checkpoint | {0: torch.ones(1), "classifier.head.bias": None}, "vssm.pth")


def test_one_parameter_under_two_names_and_routes_that_do_not_divide_are_refused(checkpoint):
    key = "layers.0.blocks.0.op.x_proj_weight"
    with pytest.raises(ValueError, match=r"two keys for backbone\.stages\.0\.blocks\.0\.ss2d\.x_proj"):
        RELEASED.rename(checkpoint | {key.replace("_weight", ".weight"): checkpoint[key].flatten(0, 1)}, "vssm.pth")
    with pytest.raises(ValueError, match=r"ss2d\.D: expected 4 routes, got shape \(6,\)"):
        RELEASED.rename(checkpoint | {"layers.0.blocks.0.op.Ds": torch.ones(6)}, "vssm.pth")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"state_dict": {}, "epoch": 3}, "epoch, state_dict"),
        ({"model": "vssm_small", "epoch": 3}, "epoch, model"),
        ({}, "nothing"),
    ],
)
def test_a_checkpoint_without_model_says_what_it_has(content, told, tmp_path):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=rf"other\.pth: expected .* it has {told}$"):
        RELEASED.load(tmp_path / "other.pth")


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Harmful()}, tmp_path / "harmful.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Harmful(), protocol=2))
    for name in ("harmful.pth", "plain.pth"):
        with pytest.raises(ValueError, match=f"{name}: refused, reading it could run code .*mkdir"):
            RELEASED.load(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_a_file_that_was_written_on_a_card_is_read_without_one(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    torch.save({"model": checkpoint}, tmp_path / "vssm.pth")
    assert {tensor.device.type for tensor in RELEASED.load(tmp_path / "vssm.pth").values()} == {"cpu"}


def test_a_safetensors_file_of_others_is_read_as_a_pytorch_file_is(tmp_path, frozen):
    state = released.formula_state(frozen.zeromamba)
    save_file(state, tmp_path / "CUB.safetensors")  # without metadata
    torch.save(state, tmp_path / "CUB.pth")
    ours, theirs = (ZEROMAMBA.load(tmp_path / name) for name in ("CUB.safetensors", "CUB.pth"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_missing_damaged_and_empty_files_are_named(tmp_path, checkpoint):
    torch.save({"model": checkpoint}, tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:5000])
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.pth").write_text("404: Not Found")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(FileNotFoundError, match=r"none\.pth: no such weights file$"):
        RELEASED.load(tmp_path / "none.pth")
    not_whole = dict.fromkeys(("cut", "empty", "text"), "not a whole")
    for name, problem in (not_whole | {"list": "got list"}).items():
        with pytest.raises(ValueError, match=rf"{name}\.pth: .*{problem}"):
            RELEASED.load(tmp_path / f"{name}.pth")


def test_weights_that_there_is_no_memory_for_are_not_called_broken(tmp_path, monkeypatch):
    (tmp_path / "whole.pth").touch()
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")):
        monkeypatch.setattr(torch, "load", Mock(side_effect=error))
        with pytest.raises(type(error)):
            RELEASED.load(tmp_path / "whole.pth")


@pytest.mark.parametrize("variant", ["released", "paper"])
def test_an_imagenet_checkpoint_starts_the_backbone_and_the_head_of_the_variant_that_keeps_it(
    tmp_path, checkpoint, variant
):
    torch.save({"model": checkpoint}, tmp_path / "vssm.pth")
    model = zeromamba(variant)
    load_pretrained(model, "small", tmp_path / "vssm.pth")
    loaded = model.state_dict()
    assert torch.equal(loaded["backbone.norm.weight"], checkpoint["classifier.norm.weight"])
    assert ("grl.head.weight" in loaded) == (variant == "released")
    if variant == "released":
        assert torch.equal(loaded["grl.head.weight"], checkpoint["classifier.head.weight"])


def test_a_model_is_built_from_the_weights_that_the_settings_name(tmp_path, checkpoint, monkeypatch):
    torch.save({"model": checkpoint}, tmp_path / "vssm.pth")
    monkeypatch.setattr(build, "build_backbone", lambda *_, **__: released.small_vmamba())
    settings = replace(preset("cub", "paper"), weights=tmp_path / "vssm.pth")
    loaded = build.build_model(settings, torch.ones(released.ATTRIBUTES, 300)).state_dict()
    assert torch.equal(loaded["backbone.norm.weight"], checkpoint["classifier.norm.weight"])
    assert torch.equal(loaded["grl.head.weight"], checkpoint["classifier.head.weight"])


def test_an_imagenet_checkpoint_starts_the_backbone_of_a_composition_without_grl(tmp_path, checkpoint):
    torch.save({"model": checkpoint}, tmp_path / "vssm.pth")
    model = Baseline(released.small_vmamba(), released.ATTRIBUTES)
    load_pretrained(model, "small", tmp_path / "vssm.pth")
    assert torch.equal(model.state_dict()["backbone.norm.weight"], checkpoint["classifier.norm.weight"])


def test_an_imagenet_checkpoint_without_the_head_that_is_kept_or_that_is_missing_is_refused(tmp_path, checkpoint):
    del checkpoint["classifier.head.bias"]
    torch.save({"model": checkpoint}, tmp_path / "vssm.pth")
    with pytest.raises(ValueError, match=r"vssm\.pth: .*missing: grl\.head\.bias"):
        load_pretrained(zeromamba(), "small", tmp_path / "vssm.pth")
    with pytest.raises(
        FileNotFoundError, match=r"none\.pth: .* get it from https://.*/vssm_small_0229.*data\.get vmamba"
    ):
        load_pretrained(zeromamba(), "small", tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError, match=r"none\.pth: no such weights file$"):  # which nobody has published
        load_pretrained(zeromamba(), "localvim-small", tmp_path / "none.pth")
    with pytest.raises(ValueError, match=r"--weights .*vssm\.pth: no weights were ever released for backbone 'nano'"):
        load_pretrained(zeromamba(), "nano", tmp_path / "vssm.pth")


@torch.no_grad()
def test_psi_is_the_numbers_that_the_released_zeromamba_gave(tmp_path, frozen):
    torch.save(released.formula_state(frozen.zeromamba), tmp_path / "CUB_bestGZSL.pth")
    model = zeromamba().eval()
    load_strict(model, ZEROMAMBA.load(tmp_path / "CUB_bestGZSL.pth"), "CUB_bestGZSL.pth")
    assert released.relative_difference(model(frozen.images), frozen.psi) < 1e-4


@torch.no_grad()
def test_psi_is_that_of_the_released_zeromamba_run_beside_ours():
    repo = released.repository("ZEROMAMBA_RELEASED_REPO")
    options = released.vssm_options() | {"dims": 96, "depths": [2, 2, 15, 2], "ssm_ratio": 2.0}
    theirs = released.zeromamba_model(repo, w2v_att=torch.ones(released.ATTRIBUTES, 300), **options)
    state = released.formula_state({name: tensor.shape for name, tensor in theirs.state_dict().items()})
    theirs.load_state_dict(state)
    ours = ZeroMamba(build_backbone("small"), torch.ones(released.ATTRIBUTES, 300), "released").eval()
    load_strict(ours, ZEROMAMBA.rename(state, "released"), "released")
    images = 2 * released.formula((1, 3, 224, 160), seed=0)
    psi = released.zeromamba_psi(repo, theirs, images)
    difference = released.relative_difference(ours(images), psi)
    print(f"psi: relative difference {difference:.1e}")
    assert difference < 1e-4


def test_released_zeromamba_with_a_bias_or_without_a_part_is_refused(frozen, demo, tmp_path):
    state = released.formula_state(frozen.zeromamba)
    with pytest.raises(ValueError, match=r"CUB\.pth: keys that ZeroMamba has no place for: clf_head\.bias"):
        ZEROMAMBA.rename(state | {"clf_head.bias": torch.ones(7)}, "CUB.pth")
    with pytest.raises(ValueError, match=r"no place for: classifier\.head\.bias"):
        ZEROMAMBA.rename(state | {"classifier.head.bias": torch.ones(1000)}, "CUB.pth")
    del state["VisionMamba.classifier2.V"]
    torch.save(state, tmp_path / "CUB.pth")
    with pytest.raises(ValueError, match=r"CUB\.pth: .*it lacks VisionMamba\.classifier2\.V"):
        adopt_released(tmp_path / "CUB.pth", Settings(gamma=0.3), demo)


def test_a_released_zeromamba_is_adopted_with_the_data_set_s_classes_and_the_published_gamma(frozen, demo, tmp_path):
    path, few = tmp_path / "CUB_bestGZSL.pth", slice(released.ATTRIBUTES)
    torch.save(released.formula_state(frozen.zeromamba), path)
    data = replace(demo, Z=demo.Z[:, few], attribute_names=demo.attribute_names[few], V=demo.V[few])
    settings = replace(preset("cub", "paper"), protocol="paper")
    checkpoint = adopt_released(path, settings, data)
    assert torch.equal(checkpoint.Z, data.Z)
    assert (checkpoint.record.gamma, checkpoint.record.seen) == (0.3, tuple(data.seen.tolist()))
    assert adopt_released(path, replace(settings, gamma=0.0), data).record.gamma == 0
    chosen_by = "released checkpoint: best epoch on test images, gamma fixed by hand"
    assert checkpoint.record.chosen_by == f"{chosen_by}; this is the epoch for U, S and H"
    for name, epoch in ("CUB_bestCZSL.pth", "; this is the epoch for CZSL"), ("renamed.pth", ""):
        other = adopt_released(path.rename(tmp_path / name), settings, data)
        assert other.record.chosen_by == chosen_by + epoch
        (tmp_path / name).rename(path)
    with pytest.raises(
        ValueError, match=rf"has {released.ATTRIBUTES} attributes, but 'demo' has 11: give the data set"
    ):
        adopt_released(path, settings, demo)
    with pytest.raises(ValueError, match=r"CUB_bestGZSL\.pth .* needs --variant released"):
        adopt_released(path, replace(settings, variant="paper", gamma=0.3), data)


def test_safetensors_return_bits_and_metadata(tmp_path):
    linear = nn.Linear(3, 2).double()
    state = {**linear.state_dict(), "view": torch.arange(6).view(2, 3).T}
    save_safetensors(state, tmp_path / "model.safetensors", {"epoch": "3"})
    loaded, metadata = load_safetensors(tmp_path / "model.safetensors")
    assert metadata == {"epoch": "3"}
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) and loaded[name].dtype == state[name].dtype for name in state)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_safetensors({"x": torch.ones(2)}, path)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_safetensors({"x": torch.zeros(2)}, path)
    assert torch.equal(load_safetensors(path)[0]["x"], torch.ones(2))
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_whole_on_the_disk_before_it_takes_the_old_one_s_place(tmp_path, monkeypatch):
    path, flushed = tmp_path / "model.safetensors", []
    path.write_text("old")
    monkeypatch.setattr(
        files.os, "fsync", lambda descriptor: flushed.append((os.fstat(descriptor).st_size, path.read_text()))
    )
    files.write_bytes(path, b"the new one")
    assert flushed == [(len("the new one"), "old")]


def test_of_two_processes_that_write_a_file_at_once_the_last_one_s_is_there(tmp_path, monkeypatch):
    path, wait = tmp_path / "result.json", os.fsync

    def another(descriptor):
        monkeypatch.setattr(files.os, "fsync", wait)
        monkeypatch.setattr(files.os, "getpid", lambda: -1)
        files.write_text(path, "another's")

    monkeypatch.setattr(files.os, "fsync", another)
    files.write_text(path, "ours")
    assert path.read_text() == "ours"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("missing", [False, True], ids=["a folder in its place", "no folder for it"])
def test_a_file_that_cannot_be_written_is_named_itself(missing, tmp_path):
    path = tmp_path / "run" / "result.json"
    if not missing:
        path.mkdir(parents=True)
    with pytest.raises(OSError, match=rf": '{path}'$"):
        files.write_json(path, {})


def test_a_number_that_json_has_no_word_for_is_not_written(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"H": float("nan")})
    assert path.read_text() == "old"


def test_damaged_and_missing_safetensors_are_named(tmp_path):
    path = tmp_path / "model.safetensors"
    save_safetensors({"x": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"model\.safetensors: not a whole safetensors file"):
        load_safetensors(path)
    with pytest.raises(FileNotFoundError, match=r"other\.safetensors: .*, beside it model\.safetensors$"):
        load_safetensors(tmp_path / "other.safetensors")
    (tmp_path / "seed-0").mkdir()
    path = path.rename(tmp_path / "seed-0" / path.name)
    with pytest.raises(ValueError, match=rf"{tmp_path} is a folder: give a file of weights, as {path}$"):
        load_safetensors(tmp_path)
