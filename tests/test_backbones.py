"""Vim, LocalVim and LocalVMamba: agreement with the released code, their published sizes, any size of image.

Also what is common to these and VMamba, whose own tests are in `test_vmamba.py`.
"""

import math
import re

import pytest
import released
import torch

from benchmarks.timing import kept_bytes
from zeromamba.backbones import REGISTRY, ImageNetClassifier, build_backbone, local_vim, local_vmamba, vim
from zeromamba.backbones.layers import DropPath
from zeromamba.backbones.local_mamba import LOCAL_VIM, LOCAL_VMAMBA_SMALL, pad_to_windows
from zeromamba.backbones.local_vim import LocalVim
from zeromamba.backbones.local_vmamba import LocalVMamba
from zeromamba.backbones.mamba import RouteScan
from zeromamba.backbones.vim import Vim
from zeromamba.kernels import Route, reference, vectorised
from zeromamba.model import ZeroMamba
from zeromamba.training import is_undecayed
from zeromamba.weights import load_strict

NAMES = ["vim", "localvim", "localvmamba"]
ALL = ["vmamba", *NAMES]
RELEASED = {"vim": vim.RELEASED, "localvim": local_vim.RELEASED, "localvmamba": local_vmamba.RELEASED}
LARGE = ["vim-small", "localvim-tiny", "localvim-small", "localvmamba-small"]


def released_name(route):
    line = f"w{route.window}" if route.window else "v" if route.column else "h"
    return line + "_flip" * route.reverse


LINES = [(False, 0), (True, 0), (False, 2), (False, 7)]
ROUTES = {released_name(r): r for r in (Route(c, f, w) for c, w in LINES for f in (False, True))}
DIRECTIONS = [tuple(ROUTES[name] for name in layer) for layer in released.DIRECTIONS]


def small(name, **options):
    """The backbone of `released_outputs.json`, of which `released.py` has the other side."""
    if name == "vmamba":
        return released.small_vmamba(**options)
    if name == "vim":
        return Vim(32, 3, grid=(4, 3), state=4, **options)
    if name == "localvim":
        return LocalVim(32, DIRECTIONS, grid=(5, 5), state=4, **options)
    return LocalVMamba([16, 24], [1, 1], DIRECTIONS, state=3, **options)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_class_scores_are_the_numbers_that_the_released_code_gave(name):
    shapes, logits = released.frozen_backbone(name)
    model = ImageNetClassifier(small(name), classes=8).eval()
    state = RELEASED[name].rename(released.formula_state(shapes), "formula")
    load_strict(model, state, "formula")
    for size, theirs in logits.items():
        images = 2 * released.formula((2, 3, *size), seed=0)
        assert released.relative_difference(model(images), theirs) < 1e-5
    model.backbone = small(name, discretization="zoh").eval()
    load_strict(model, state, "formula")
    assert released.relative_difference(model(images), theirs) > 1e-3, "the numbers do not depend on the scan"


def test_frozen_numbers_are_what_the_released_code_gives():
    for name, outputs in released.compute_backbones().items():
        shapes, logits = released.frozen_backbone(name)
        assert shapes == {key: [int(n) for n in shape.split()] for key, shape in outputs["shapes"].items()}
        for frozen, theirs in zip(logits.values(), outputs["logits"], strict=True):
            assert released.relative_difference(torch.tensor(theirs), frozen) < 1e-5


def released_model(name, image_size):
    """The released model of its published size, for images of one size where it is built for one."""
    if name == "vim-small":
        repo = released.repository("ZEROMAMBA_VIM_REPO")
        return released.vim_model(repo, embed_dim=384, depth=24, img_size=image_size)
    repo = released.repository("ZEROMAMBA_LOCALMAMBA_REPO")
    if name == "localvmamba-small":
        directions = released.localmamba_directions(repo, "local_vssm_small")
        return released.localvmamba_model(repo, dims=[96, 192, 384, 768], depths=[2, 2, 27, 2], directions=directions)
    directions = released.localmamba_directions(repo, "local_vim_tiny")
    channels = {"localvim-tiny": 192, "localvim-small": 384}[name]
    return released.localvim_model(repo, embed_dim=channels, depth=20, directions=directions)


@pytest.mark.parametrize(
    ("name", "image_size"),
    [("vim-small", (224, 224)), ("vim-small", (160, 96))]
    + [(name, (side, side)) for name in LARGE[1:] for side in (224, 160)],
)
@torch.no_grad()
def test_class_scores_are_those_of_the_released_code_run_beside_ours(name, image_size):
    theirs = released_model(name, image_size)
    ours = ImageNetClassifier(build_backbone(name)).eval()
    state = released.formula_state({key: tensor.shape for key, tensor in theirs.state_dict().items()})
    theirs.load_state_dict(state)
    if name == "vim-small":  # theirs is of one image size; ours interpolates the positions of 224 x 224
        state["pos_embed"] = released.formula((1, 14 * 14 + 1, 384), seed=1)
        ours.backbone.pos_embed.copy_(state["pos_embed"])
        theirs.pos_embed.copy_(ours.backbone.positions(*(n // 16 for n in image_size)))
    load_strict(ours, REGISTRY[name].released.rename(state, name), name)
    images = 2 * released.formula((1, 3, *image_size), seed=0)
    difference = released.relative_difference(ours(images), released.on_cpu(theirs, images))
    print(f"{name} {image_size}: relative difference {difference:.1e}")
    assert difference < 1e-4


def test_directions_are_the_released_ones():
    repo = released.repository("ZEROMAMBA_LOCALMAMBA_REPO")
    for name, ours in (("local_vim_tiny", LOCAL_VIM), ("local_vssm_small", LOCAL_VMAMBA_SMALL)):
        theirs = released.localmamba_directions(repo, name)
        assert [[released_name(route) for route in layer] for layer in ours] == theirs


@pytest.mark.parametrize(
    ("name", "parameters", "table_4", "attributes"),
    [
        ("localvim-tiny", 7_994_152, 8.3, 312),
        ("vim-small", 25_796_584, 25.9, 102),
        ("localvim-small", 27_783_784, 27.9, 102),
        ("localvmamba-small", 49_748_536, 50.1, 312),
    ],
)
def test_parameters_are_as_many_as_table_4_has(name, parameters, table_4, attributes):
    """Table 4 counts the ImageNet head and a linear layer from it to the attributes: for two models those of CUB
    (312), for the other two those of SUN (102) or AWA2 (85)."""
    with torch.device("meta"):
        model = ImageNetClassifier(build_backbone(name))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert round((parameters + 1000 * attributes) / 1e6, 1) == table_4


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_and_an_unknown_key_are_named(name):
    shapes, _ = released.frozen_backbone(name)
    state = released.formula_state(shapes)
    with pytest.raises(ValueError, match=r"a\.pth: keys that \w+ has no place for: layers\.0\.mixer\.gamma"):
        RELEASED[name].rename(state | {"layers.0.mixer.gamma": torch.ones(1)}, "a.pth")
    lost = "norm_f.weight" if "norm_f.weight" in state else "classifier.norm.weight"
    del state[lost]
    with pytest.raises(ValueError, match=r"a\.pth: .*missing: backbone\.norm\.weight"):
        load_strict(ImageNetClassifier(small(name), 8), RELEASED[name].rename(state, "a.pth"), "a.pth")


def test_weights_for_another_grid_are_refused():
    shapes, _ = released.frozen_backbone("vim")
    state = vim.RELEASED.rename(released.formula_state(shapes), "stride8.pth")
    with pytest.raises(ValueError, match=r"another shape: backbone\.pos_embed \(1, 13, 32\) instead of \(1, 17, 32\)"):
        load_strict(ImageNetClassifier(Vim(32, 3, grid=(4, 4), state=4), 8), state, "stride8.pth")
    with pytest.raises(ValueError, match=r"a\.ckpt: backbone\.pos_embed: expected positions of a square grid"):
        local_vim.RELEASED.rename({"pos_embed": torch.ones(1, 12, 32)}, "a.ckpt")


@pytest.mark.parametrize("image_size", [(16, 16), (33, 70), (112, 48)])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_any_image_of_a_patch_or_more_gives_features(name, image_size):
    features = small(name).eval()(torch.randn(2, 3, *image_size))
    size = {
        "vim": [n // 16 for n in image_size],
        "localvim": [math.ceil(n / 16) for n in image_size],
        "localvmamba": [math.ceil(n // 4 / 2) for n in image_size],
    }[name]
    channels = 24 if name == "localvmamba" else 32
    assert features.map.shape == (2, *size, channels)
    assert features.pooled.shape == (2, channels)
    assert features.map.isfinite().all()
    assert features.pooled.isfinite().all()


@pytest.mark.parametrize(("name", "least"), [("vim", 16), ("localvim", 1), ("localvmamba", 4)])
def test_an_image_smaller_than_a_patch_and_what_is_none_are_refused(name, least):
    for shape in ((2, 3, least - 1, 32), (2, 32, 32, 3)):
        with pytest.raises(ValueError, match=rf"images: expected \(b, 3, H, W\), .* H, W >= {least}; got"):
            small(name)(torch.zeros(shape))


def test_the_class_token_keeps_its_position_when_the_others_are_interpolated():
    backbone = Vim(8, 1, grid=(4, 3))
    assert backbone.positions(4, 3) is backbone.pos_embed
    with torch.no_grad():
        backbone.pos_embed.fill_(1.0)
        backbone.pos_embed[0, 6] = 5.0
        positions = backbone.positions(3, 6)
    assert positions.shape == (1, 19, 8)
    assert (positions[0, 9] == 5).all()
    torch.testing.assert_close(positions.sum(), torch.tensor(8 * (18 + 5.0)))


@torch.no_grad()
def test_a_scan_along_columns_is_one_along_rows_of_the_transposed_map():
    """On maps that are not square too, where the released LocalMamba puts tokens back at wrong places."""
    scan = RouteScan(6, 2, 3, "euler", "auto")
    x = torch.randn(2, 4, 7, 6)
    for route in (Route(), Route(reverse=True), Route(window=2), Route(window=2, reverse=True)):
        along_columns = Route(column=True, reverse=route.reverse, window=route.window)
        torch.testing.assert_close(scan(x, along_columns), scan(x.transpose(1, 2), route).transpose(1, 2))


@torch.no_grad()
def test_a_scan_and_its_convolution_see_only_what_comes_before_on_the_route():
    scan = RouteScan(6, 2, 3, "euler", "auto")
    route, x = Route(column=True, reverse=True, window=2), torch.randn(1, 4, 6, 6)
    changed = x.clone()
    token = route.tokens(4, 6)[10]
    changed.flatten(1, 2)[0, token] += 1
    differs = (scan(x, route) != scan(changed, route)).any(-1).flatten()[route.tokens(4, 6)]
    assert differs.nonzero().min() == 10
    assert differs[10:14].all()


def test_windows_are_filled_with_zeros_at_the_right_and_lower_border():
    x = torch.ones(1, 5, 8, 2)
    padded = pad_to_windows(x, 7)
    assert padded.shape == (1, 7, 14, 2)
    assert padded.sum() == x.sum()
    assert (padded[:, :5, :8] == 1).all()
    assert pad_to_windows(x, 0) is x


@pytest.mark.parametrize("name", ALL)
def test_gradient_checkpointing_changes_no_gradient_and_no_draw_and_every_parameter_gets_a_gradient(name):
    """In float64, which every layer takes."""
    grads, draws = [], []
    for grad_checkpoint in (False, True):
        torch.manual_seed(0)
        backbone = small(name, drop_path=0.3, grad_checkpoint=grad_checkpoint).double().train()
        features = backbone(torch.randn(4, 3, 48, 33, dtype=torch.float64))
        (features.map.square().mean() + features.pooled.square().mean()).backward()
        grads.append({key: p.grad for key, p in backbone.named_parameters()})
        draws.append(torch.rand(1))
    for key, grad in grads[0].items():
        assert grad is not None, key
        assert grad.any(), key
        torch.testing.assert_close(grad, grads[1][key], rtol=0, atol=0)
    assert draws[0] == draws[1]


def test_stochastic_depth_rises_to_the_published_rates():
    with torch.device("meta"):
        last = {name: [m.rate for m in build_backbone(name).modules() if isinstance(m, DropPath)] for name in LARGE}
    assert {name: rates[-1] for name, rates in last.items()} == pytest.approx(
        {"vim-small": 0.05, "localvim-tiny": 0.1, "localvim-small": 0.1, "localvmamba-small": 0.2}
    )
    assert all(rates[0] == 0 for rates in last.values())
    assert last["localvim-tiny"][10] == pytest.approx(0.1 * 10 / 19)


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_bf16_autocast_stays_close_to_float32(name):
    backbone, images = small(name).eval(), torch.randn(2, 3, 64, 48)
    with torch.autocast("cpu", torch.bfloat16):
        half = backbone(images)
    for ours, exact in zip(half, backbone(images), strict=True):
        assert released.relative_difference(ours.float(), exact) < 0.05


@pytest.mark.parametrize("name", NAMES)
def test_zeromamba_takes_each_as_its_encoder(name):
    model = ZeroMamba(small(name), torch.randn(5, 6), "paper")
    assert model(torch.randn(2, 3, 48, 48)).shape == (2, 5)


@torch.no_grad()
def test_rotations_turn_pairs_of_channels_by_row_and_column():
    rotation, x = local_vim.Rotation(8, (3, 2)), torch.randn(1, 3, 2, 8)
    turned = rotation(x)
    frequencies = [1.0, 10000.0**-0.5]
    for row in range(3):
        for column in range(2):
            for pair, angle in enumerate([row * f for f in frequencies] + [column * f for f in frequencies]):
                before, after = (torch.view_as_complex(m[0, row, column].view(4, 2))[pair] for m in (x, turned))
                torch.testing.assert_close(after, before * complex(math.cos(angle), math.sin(angle)))


def test_the_released_model_starts_with_the_same_rotations():
    theirs = released.localvim_model(released.repository("ZEROMAMBA_LOCALMAMBA_REPO"), depth=1, embed_dim=16)
    ours = local_vim.Rotation(16, (14, 14))
    torch.testing.assert_close(theirs.rope.freqs_cos, ours.cos.flatten(0, 1))
    torch.testing.assert_close(theirs.rope.freqs_sin, ours.sin.flatten(0, 1))


def test_names_titles_and_files_are_of_one_piece():
    files = [entry.file for entry in REGISTRY.values() if entry.file]
    assert len(files) == len(set(files))
    for entry in REGISTRY.values():
        assert re.fullmatch(r"\w+-(Nano|Tiny|Small|Base)", entry.title)


def test_positions_and_class_tokens_are_spared_weight_decay():
    spared = {name for name, p in small("vim").named_parameters() if is_undecayed(name, p)}
    assert {"pos_embed", "cls_token", "blocks.0.mixer.scans.1.A_log", "norm.weight"} <= spared
    assert not spared & {"patch_embed.weight", "blocks.0.mixer.in_proj.weight", "blocks.0.mixer.scans.0.dt_weight"}


@pytest.mark.parametrize("name", ALL)
def test_stochastic_depth_leaves_out_every_branch(name):
    backbone = small(name, drop_path=0.5).train()
    for module in backbone.modules():
        if isinstance(module, DropPath):
            module.rate = 1 - 1e-9  # no draw is as large
    features = backbone(torch.randn(2, 3, 48, 48))
    (features.map.square().mean() + features.pooled.square().mean()).backward()
    for key, p in backbone.named_parameters():
        assert p.grad.any() == ("blocks" not in key), key


@pytest.mark.parametrize("name", ALL)
def test_gradient_checkpointing_keeps_less(name):
    def kept(grad_checkpoint):
        backbone, images = small(name, grad_checkpoint=grad_checkpoint), torch.randn(2, 3, 48, 48)
        return kept_bytes(lambda: backbone(images).map, [*backbone.parameters()])

    assert kept(True) < kept(False) / 2


@pytest.fixture
def scanned(monkeypatch):
    """The discretisation of every scan of the reference; the vectorised one does not run."""
    called, run = [], reference.ss2d
    monkeypatch.setattr(reference, "ss2d", lambda *a: called.append(a[2]) or run(*a))
    monkeypatch.setattr(vectorised, "forward", None)
    return called


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_the_scan_asked_for_is_the_one_that_runs(name, scanned):
    small(name, impl="reference", discretization="zoh")(torch.randn(1, 3, 32, 32))
    assert set(scanned) == {"zoh"}


@torch.no_grad()
def test_what_is_asked_of_a_backbone_reaches_it(scanned):
    backbone = build_backbone("nano", impl="reference", discretization="zoh", grad_checkpoint=True)
    assert all(stage.grad_checkpoint for stage in backbone.stages)
    backbone(torch.randn(1, 3, 32, 32))
    assert scanned == ["zoh"] * 5


@torch.no_grad()
def test_positions_of_another_grid_are_where_they_were():
    """Rows stay rows: one channel holds a patch's row, one its column."""
    backbone = Vim(2, 0, grid=(4, 3))
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(3.0), indexing="ij")
    table = torch.stack([rows, columns], dim=-1).flatten(0, 1)
    backbone.pos_embed.copy_(torch.cat([table[:6], torch.zeros(1, 2), table[6:]])[None])
    positions = backbone.positions(6, 7)[0]
    rows, columns = torch.cat([positions[:21], positions[22:]]).view(6, 7, 2).unbind(-1)
    torch.testing.assert_close(rows, rows[:, :1].expand(6, 7))
    torch.testing.assert_close(columns, columns[:1].expand(6, 7))
    assert (rows.diff(dim=0) > 0).all()
    assert (columns.diff(dim=1) > 0).all()


@torch.no_grad()
def test_the_map_of_vim_holds_every_patch_at_its_place():
    """With no block between, a patch and its position are all that is there; and not normalised."""
    backbone, images = Vim(8, 0, grid=(4, 3)), torch.randn(2, 3, 64, 48)
    positions = backbone.pos_embed[0]
    patches = backbone.patch_embed(images).movedim(1, 3)
    features = backbone(images)
    torch.testing.assert_close(features.map, patches + torch.cat([positions[:6], positions[7:]]).view(4, 3, 8))
    torch.testing.assert_close(features.pooled, backbone.norm(backbone.cls_token[0] + positions[6]).expand(2, 8))


@torch.no_grad()
def test_the_class_token_keeps_its_position_among_an_odd_number_of_patches():
    backbone = Vim(8, 1, grid=(4, 3))
    backbone.pos_embed[0, 6] = 5.0
    assert (backbone.positions(3, 5)[0, 7] == 5).all()  # where `forward` puts it


@pytest.mark.parametrize("name", [name for name in ALL if name != "vim"])  # which pools its class token
def test_maps_are_not_normalised_and_what_is_pooled_is(name):
    backbone = small(name).eval()
    torch.nn.init.uniform_(backbone.norm.weight, 0.5, 2)  # or to normalise twice would be to normalise once
    features = backbone(torch.randn(2, 3, 48, 48))
    torch.testing.assert_close(features.pooled, backbone.norm(features.map).mean((1, 2)))


@pytest.mark.parametrize("name", ["vmamba", "localvmamba"])
def test_the_projection_to_dt_B_and_C_starts_as_a_linear_layer_of_torch(name):
    """Uniform in plus and minus 1 / sqrt(d)."""
    torch.manual_seed(0)
    for key, p in small(name).named_parameters():
        if key.endswith("x_proj"):
            bound = p.shape[-1] ** -0.5
            assert 0.95 * bound < p.max() <= bound, key
            assert -bound <= p.min() < -0.95 * bound, key


@pytest.mark.parametrize("name", ALL)
def test_linear_layers_start_as_those_of_vmamba(name):
    torch.manual_seed(0)
    linear = [m for m in small(name).modules() if isinstance(m, torch.nn.Linear)]
    weights = torch.cat([m.weight.flatten() for m in linear])
    assert weights.std().item() == pytest.approx(0.02, rel=0.03)
    assert not any(m.bias.any() for m in linear if m.bias is not None)


def test_drop_path_keeps_the_dtype():
    assert DropPath(0.25).train()(torch.ones(2, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_directions_of_more_blocks_than_there_are_are_refused():
    with pytest.raises(ValueError, match="directions: expected those of 1 blocks, got 2"):
        LocalVMamba([16], [1], DIRECTIONS)
