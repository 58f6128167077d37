"""The scan's benchmark without a GPU, and the timings that guard the CPU paths (`pytest --benchmark-only`)."""

import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import cpu_paths, drawn, gpu, models, plot, scan, timing
from benchmarks.ahead_of_time import Compiled
from benchmarks.contenders import CONTENDERS
from benchmarks.floors import Card, Floors, Size, floors, instructions_an_element
from benchmarks.goals import at_least, at_most, goals
from benchmarks.gpu import Figures, Row
from benchmarks.models import ModelRow, model_table
from benchmarks.scan import Options, compile_time, in_time, main, parse
from benchmarks.timing import kept_bytes
from zeromamba.backbones import ImageNetClassifier, build_backbone

STAGE_1 = Size(stage=1, image=448, b=16, side=112, d=192, r=6)
COUNTED = {(1, "bfloat16", False): {"segment_states": 30.0, "segment_outputs": 40.0}}
H200 = Card("H200", bandwidth=4.3e12, multiprocessors=132, clock=1.98e9)
FLOORS = Floors(memory=0.1, special=0.2, instructions=None)
FIGURES = Figures(1.0, 3.0, None, None, FLOORS, FLOORS, None, kept_an_element=3.5)


@pytest.fixture
def without_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def torch_path(cut="scan"):
    """The contender with which all others of a cut are compared."""
    return next(c for c in CONTENDERS if (c.name, c.cut) == ("torch", cut))


def measured(monkeypatch, contenders, sizes, *dtypes):
    """The rows that contenders give, in that order, on a CPU in the place of a GPU."""
    monkeypatch.setattr(gpu, "CONTENDERS", tuple(contenders))
    monkeypatch.setattr(gpu, "sizes", lambda: sizes)
    return list(gpu.measure(torch.device("cpu"), H200, dtypes, {}, repeats=1))


def test_without_a_gpu_the_cpu_paths_are_timed_and_written(without_gpu, tmp_path, capsys):
    main(Options(json=tmp_path / "new/cpu.json", compile=False, cpu_sides=(3, 4), cpu_channels=8, repeats=2))
    printed = capsys.readouterr().out
    assert "No CUDA device here: nothing is measured on a GPU" in printed
    assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is False, "float32 is float32"
    assert printed.count("not measured") >= 10  # every goal
    result = json.loads((tmp_path / "new/cpu.json").read_text())
    assert {"commit", "date", "device", "threads", "python", "torch", "triton", "cpu", "goals"} <= result.keys()
    assert [(row["path"], row["side"]) for row in result["cpu"]] == [(p, s) for s in (3, 4) for p in cpu_paths.PATHS]
    assert all(row["forward_ms"] > 0 and row["backward_ms"] > 0 and row["difference"] < 1e-5 for row in result["cpu"])


def test_whole_networks_without_a_gpu_are_refused(without_gpu):
    with pytest.raises(SystemExit, match="no CUDA device"):
        main(Options(model=True))


def test_a_plot_that_cannot_be_drawn_is_refused_before_anything_is_measured(without_gpu, monkeypatch):
    monkeypatch.setattr(cpu_paths, "PATHS", None)
    with pytest.raises(SystemExit, match="--plot draws the scan's times, and --model measures whole networks"):
        main(Options(model=True, plot=Path("networks.png")))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit, match=r"--plot needs matplotlib: pip install -e '\.\[figures\]'"):
        main(Options(plot=Path("cpu.png"), compile=False))


def test_the_plot_of_cpu_paths(without_gpu, tmp_path):
    pytest.importorskip("matplotlib")
    main(Options(plot=tmp_path / "cpu.png", compile=False, cpu_sides=(3,), cpu_channels=8, repeats=1))
    assert (tmp_path / "cpu.png").stat().st_size > 1000


def test_the_time_of_a_wrong_result_is_not_reported(monkeypatch):
    monkeypatch.setitem(cpu_paths.PATHS, "wrong", lambda inputs: 1.01 * cpu_paths.PATHS["vectorised"](inputs))
    *right, wrong = cpu_paths.time_paths((3,), d=8, repeats=1)
    assert wrong.forward_ms is None
    assert wrong.note.startswith("WRONG")
    assert all(row.forward_ms for row in right)
    assert "WRONG" in cpu_paths.cpu_table([*right, wrong])


def test_cpu_forward_and_backward_have_each_their_own_time(monkeypatch):
    """A forward gives a tensor, a backward several."""
    monkeypatch.setattr(cpu_paths, "median_ms", lambda run, *_: 1.0 if isinstance(run(), torch.Tensor) else 3.0)
    rows = cpu_paths.time_paths((3,), d=8, repeats=1)
    assert [(row.forward_ms, row.backward_ms) for row in rows] == [(1.0, 3.0)] * len(cpu_paths.PATHS)


@pytest.mark.parametrize(("factor", "told"), [(1.01, "1e-02"), (math.nan, "nan")])
def test_wrong_gradients_alone_are_found(factor, told, monkeypatch):
    right = cpu_paths.PATHS["vectorised"]
    monkeypatch.setitem(cpu_paths.PATHS, "wrong", lambda inputs: spoil_gradients(right(inputs), factor))
    *_, row = cpu_paths.time_paths((3,), d=8, repeats=1)
    assert row.note.startswith(f"WRONG by {told}")


def test_the_cpu_table_and_plot_have_each_path_s_own_times(monkeypatch):
    size = {"b": 2, "d": 192, "n": 1, "routes": 4, "difference": 1e-7}
    loop, fast = (
        cpu_paths.CpuRow(path, 28, forward_ms=forward, backward_ms=backward, **size)
        for path, forward, backward in (("reference loop", 60.0, 250.0), ("vectorised", 20.0, 50.0))
    )
    assert cpu_paths.cpu_table([loop, fast]).splitlines()[2:] == [
        "| 28 x 28 | reference loop | 60 | 3.0 | 250 | 5.0 | 1e-07 |",
        "| 28 x 28 | vectorised | 20 | 1.0 | 50 | 1.0 | 1e-07 |",
    ]
    pytest.importorskip("matplotlib")
    drawn = []
    monkeypatch.setattr(plot, "_save", lambda figure, path: drawn.append(figure))
    plot.plot_cpu([loop, fast], "a machine", Path("cpu.png"))
    lines = [[line.get_xydata().tolist() for line in axes.lines] for axes in drawn[0].axes]
    assert lines == [[[[784, 60]], [[784, 20]]], [[[784, 250]], [[784, 50]]]]


def test_the_plot_of_a_gpu_has_the_whole_ss2d_in_bfloat16_setting_by_setting(monkeypatch):
    pytest.importorskip("matplotlib")
    rows = [
        Row("triton", cut, dtype, replace(STAGE_1, stage=s, image=image), figures=replace(FIGURES, forward_ms=ms * s))
        for cut, dtype, image, ms in (
            ("ss2d", "bfloat16", 448, 5.0),
            ("ss2d", "bfloat16", 224, 7.0),
            ("ss2d", "float32", 448, 100.0),
            ("scan", "bfloat16", 448, 100.0),
        )
        for s in (1, 2)
    ]
    drawn = []
    monkeypatch.setattr(plot, "_save", lambda figure, path: drawn.append(figure))
    plot.plot_gpu([*rows, Row("other", "ss2d", "bfloat16", STAGE_1, note="WRONG")], "a card", Path("gpu.png"))
    lines = [[line.get_xydata().tolist() for line in axes.lines] for axes in drawn[0].axes]
    assert lines == [[[[1, 5], [2, 10]]], [[[1, 7], [2, 14]]], [[[1, 3], [2, 3]]], [[[1, 3], [2, 3]]]]


def test_contenders_agree_where_they_can_run_and_are_named_where_not(monkeypatch):
    monkeypatch.delenv("ZEROMAMBA_VMAMBA_REPO", raising=False)
    for name in ("selective_scan_cuda", "selective_scan_cuda_oflex"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(gpu, "SETTINGS", ((448, 1),))  # at the first of which sequences are timed, too
    rows = measured(monkeypatch, CONTENDERS, [Size(1, 448, 1, 4, 16, 2)], torch.bfloat16)
    assert [(row.contender, row.cut) for row in rows] == [(c.name, c.cut) for c in CONTENDERS]
    for row in rows:
        if row.contender == "triton" and torch.cuda.is_available():
            assert "failed: ValueError: impl='triton' cannot be used" in row.note  # tensors of a CPU, not interpreted
        elif row.contender in ("torch", "triton"):
            assert row.figures.forward_ms > 0
            assert 0 < row.difference < 0.05
        else:
            assert "cannot be imported" in row.note
    assert any("github.com/MzeroMiko/VMamba" in row.note for row in rows)
    released = next(row.note for row in rows if row.contender == "VMamba released")
    assert released.count("cannot be imported") == 2, "all that is missing is named at once"
    assert len(gpu.table(rows).splitlines()) == len(rows) + 1


def spoil_gradients(y, factor):
    y.register_hook(lambda gradient: factor * gradient)
    return y


@pytest.mark.parametrize(
    "spoil",
    [
        lambda y: 1.2 * y,
        lambda y: math.nan * y,
        lambda y: spoil_gradients(y, 1.2),
        lambda y: spoil_gradients(y, math.nan),
    ],
    ids=["result", "no number", "gradients", "gradients that are no numbers"],
)
def test_a_wrong_contender_on_the_way_to_a_gpu_is_refused(spoil, monkeypatch):
    honest = torch_path()

    def prepare(tensors):
        prepared = honest.prepare(tensors)
        return replace(prepared, forward=lambda: spoil(prepared.forward()))

    both = (honest, replace(honest, name="wrong", prepare=prepare))
    right, wrong = measured(monkeypatch, both, [Size(1, 448, 1, 3, 8, 1)], torch.float32)
    assert right.figures.forward_ms > 0
    assert wrong.figures is None
    assert "WRONG" in wrong.note


def test_a_contender_has_its_own_times_memory_and_floors(monkeypatch):
    """A forward gives a tensor, forward and backward together several."""
    honest, size = torch_path(), Size(1, 448, 1, 3, 8, 1)
    monkeypatch.setattr(gpu, "median_ms", lambda run, *_: 1.0 if isinstance(run(), torch.Tensor) else 3.0)
    (row,) = measured(monkeypatch, [honest], [size], torch.float32)
    assert (row.figures.forward_ms, row.figures.forward_backward_ms) == (1.0, 3.0)
    assert row.figures.floors_forward == floors(size, torch.float32, H200, False, {})
    assert row.figures.floors_forward_backward == floors(size, torch.float32, H200, True, {})
    prepared = honest.prepare(gpu.draw(size, torch.float32, torch.device("cpu")))
    kept = kept_bytes(prepared.forward, prepared.parameters)
    assert kept > kept_bytes(prepared.forward, prepared.leaves)
    assert row.figures.kept_an_element == kept / (1 * 3 * 3 * 8)


@pytest.mark.parametrize("cut", ["ss2d", "scan", "1-d"])
def test_one_wrong_token_among_many_is_found(cut, monkeypatch):
    """In bfloat16, whose roundings all tokens have."""
    honest = torch_path(cut)

    def prepare(tensors):
        prepared = honest.prepare(tensors)

        def forward():
            y = prepared.forward()
            is_wrong = torch.zeros(y.shape, dtype=torch.bool)
            prepared.to_ours(is_wrong)[0, -1].view(-1, y.shape[1 if cut == "1-d" else -1])[-1] = True
            return torch.where(is_wrong, 0, y)

        return replace(prepared, forward=forward)

    both = (honest, replace(honest, name="wrong", prepare=prepare))
    right, wrong = measured(monkeypatch, both, [Size(1, 448, 16, 8, 16, 2)], torch.bfloat16)
    assert right.figures.forward_ms > 0
    assert "WRONG" in wrong.note


def test_without_a_result_to_compare_with_no_time_is_reported(monkeypatch):
    def prepare(tensors):
        raise torch.OutOfMemoryError("of the torch path")

    both = replace(torch_path(), prepare=prepare), replace(torch_path(), name="other")
    rows = measured(monkeypatch, both, [Size(1, 448, 1, 3, 8, 1)], torch.float32)
    assert [row.contender for row in rows] == ["torch", "other"]
    assert all("no result to compare with: OutOfMemoryError" in row.note for row in rows)


def test_sequences_come_last_and_at_the_first_setting_alone(monkeypatch):
    def prepare(tensors):
        raise RuntimeError("only the order is asked for")

    contenders = [replace(torch_path(cut), prepare=prepare) for cut in ("scan", "1-d")]
    sizes = [Size(1, i, b, 2, 4, 1) for i, b in gpu.SETTINGS[:2]]
    rows = measured(monkeypatch, contenders, sizes, torch.bfloat16, torch.float32)
    scans = [("scan", dtype, image) for dtype in ("bfloat16", "float32") for image in (448, 224)]
    sequences = [("1-d", dtype, 448) for dtype in ("bfloat16", "float32")]
    assert [(row.cut, row.dtype, row.size.image) for row in rows] == scans + sequences


def test_the_table_has_the_device_s_time_beside_that_of_a_call():
    figures = replace(FIGURES, forward_ms=1.5, forward_backward_ms=4.5)
    figures = replace(figures, device_forward_ms=1.25, device_forward_backward_ms=4.25)
    head, line = gpu.table([Row("triton", "ss2d", "bfloat16", STAGE_1, figures=figures)]).splitlines()
    end = head.index("device fwd, f+b ms") + len("device fwd, f+b ms")
    assert line[:end].split()[-4:] == ["1.500", "4.500", "1.250,", "4.250"]


def test_the_table_has_a_scan_s_share_of_its_floor_and_its_memory():
    """The floor is that of the special functions, 0.2 ms, of 1 and 3 ms; no floor is of the rest of an SS2D."""
    figures = replace(FIGURES, peak_bytes=2_000_000_000)
    _, scan, whole = gpu.table(
        [Row("triton", c, "bfloat16", STAGE_1, figures=figures) for c in ("scan", "ss2d")]
    ).split("\n")
    assert scan.split()[-7:] == ["1.000", "20%", "3.000", "7%", "2000", "3.5", "0e+00"]
    assert whole.split()[-5:] == ["1.000", "3.000", "2000", "3.5", "0e+00"]


def test_the_maps_are_those_of_vmamba_s_stages():
    """A quarter of the image's side in tokens, then half of that at each stage."""
    assert [(s.stage, s.side, s.d) for s in gpu.sizes()[:4]] == [
        (1, 112, 192),
        (2, 56, 384),
        (3, 28, 768),
        (4, 14, 1536),
    ]


def test_a_card_s_clock_is_in_hertz(monkeypatch):
    properties = SimpleNamespace(name="H200", multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(gpu.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout="1980\n"))
    monkeypatch.setattr(gpu, "copy_bandwidth", lambda device: 4.3e12)
    assert gpu.card(torch.device("cuda")) == H200


def test_a_time_is_the_median_of_warm_runs_in_ms(monkeypatch):
    """Of slow runs three are enough; the first two do not count."""
    durations, clock = iter([10.0, 0.4, 0.1, 0.4, 0.2]), [0.0]

    def run():
        clock[0] += next(durations)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    assert timing.median_ms(run, torch.device("cpu"), repeats=20) == pytest.approx(200)
    assert next(durations, None) is None


def test_a_result_at_the_gate_is_right_and_one_that_is_no_number_is_wrong():
    assert timing.wrong(1e-3, gate=1e-3) == ""
    assert timing.wrong(1.1e-3, gate=1e-3) == "WRONG by 1e-03, so its time is not reported"
    assert timing.wrong(math.nan, gate=1e-3).startswith("WRONG by nan")


def test_what_is_measured_until_the_time_limit_is_reported(capsys):
    assert list(in_time(iter("abc"), Options(limit_s=1e9))) == [*"abc"]
    assert list(in_time(iter("abc"), Options(limit_s=0.0))) == ["a"]
    assert "--limit-s 0: stopped here" in capsys.readouterr().out


@pytest.mark.parametrize("task", ["inference", "training"])
def test_a_network_is_timed_at_its_task_if_its_output_is_right(task):
    made = []

    def make():
        torch.manual_seed(0)
        made.append(ImageNetClassifier(build_backbone("nano", impl="torch")))
        return made[-1]

    def make_wrong():
        model = make()
        model.register_forward_hook(lambda model, images, scores: 1.01 * scores)
        return model

    row, cpu = ModelRow("VMamba nano", "torch", task, "float32", 2, 32), torch.device("cpu")
    right = models._measured(row, make, make, torch.float32, cpu, repeats=1)
    assert (right.ms > 0, right.note, made[0].training) == (True, "", task == "training")
    stays = all(map(torch.equal, made[0].parameters(), made[1].parameters()))
    assert stays == (task == "inference")
    refused = models._measured(row, make_wrong, make, torch.float32, cpu, repeats=1)
    assert (refused.ms, refused.note[:5]) == (None, "WRONG")


def test_every_network_is_compared_with_our_torch_path(monkeypatch):
    monkeypatch.setattr(models, "_measured", lambda row, make, twin, *_: (row.variant, make.args[-1], twin.args[-1]))
    rows = list(models.measure_models(torch.device("cpu"), repeats=1))
    assert len(rows) == 2 * (3 * 3 * 2 + 2), "two dtypes; three sizes, variants of each, two tasks; two of ZeroMamba"
    for variant, made, twin in rows:
        assert twin == "torch"
        assert made == variant or variant == models.RELEASED


def test_networks_are_written_as_they_come_and_held_against_the_goals_about_them(monkeypatch, tmp_path):
    row = ModelRow("VMamba small", "triton", "training", "bfloat16", 64, 224, ms=50.0)
    monkeypatch.setattr(scan, "measure_models", lambda device, repeats: iter([row]))
    result = scan.networks(Options(json=tmp_path / "networks.json"))
    assert ["VMamba-S" in line for line in result["goals"]] == [True] * 3
    so_far = json.loads((tmp_path / "networks.json").read_text())
    assert (so_far["unfinished"], so_far["models"]) == (True, [asdict(row)])
    assert {"commit", "device"} < so_far.keys()


def test_the_table_of_networks_has_images_a_second_and_megabytes():
    row = ModelRow("VMamba small", "triton", "training", "bfloat16", 64, 224, ms=50.0, peak_bytes=2_000_000_000)
    assert model_table([row]).split()[-8:] == ["224", "50.0", "ms", "1280", "images/s", "peak", "2000", "MB"]


def test_instructions_are_taken_from_what_was_compiled_before(tmp_path):
    row = Compiled("segment_outputs", 1, "bfloat16", "table", "", False, 90, 200, 0, 4096, 1000, per_element=40.0)
    states = replace(row, kernel="segment_states", per_element=20.0)
    others = replace(row, special="zoh", per_element=60.0), replace(row, sm=80), replace(row, backward=True)
    lines = [json.dumps(asdict(one)) for one in (row, replace(row, per_element=30.0), states, states, *others)]
    log = tmp_path / "compile.log"
    log.write_text("\n".join(["a warning", *lines, lines[0][:40]]))  # cut off by a limit
    compiled = compile_time(Options(counted=log), stages=(1,), sms=(90,))
    assert [one.per_element for one in compiled] == [40.0, 30.0, 20.0, 20.0, 60.0, 40.0]
    whole = {(1, "bfloat16", False): {"segment_outputs": 35.0, "segment_states": 20.0}}
    assert instructions_an_element(compiled) == whole, "of the backward, one launch alone was compiled"


def test_the_command_line_has_the_options_and_their_defaults(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["scan.py"])
    assert parse() == Options()
    monkeypatch.setattr(sys, "argv", ["scan.py", "--model", "--no-compile", "--dtypes", "float16", "--limit-s", "9"])
    assert parse() == Options(model=True, compile=False, dtypes=["float16"], limit_s=9.0)


def test_floors_by_hand():
    """38.5e6 elements; c = 4 (6 + 2) / 192 = 1/6; two special functions forward and three more backward, 4 routes."""
    forward, both = (floors(STAGE_1, torch.bfloat16, H200, b, COUNTED) for b in (False, True))
    elements = 16 * 112 * 112 * 192
    assert forward.memory == pytest.approx(1e3 * elements * (2 + 1 / 6) * 2 / 4.3e12)
    assert both.memory == pytest.approx(1e3 * elements * (5 + 1 / 2) * 2 / 4.3e12)
    assert forward.special == pytest.approx(1e3 * elements * 4 * 2 / (16 * 132 * 1.98e9))
    assert both.special == pytest.approx(1e3 * elements * 4 * 5 / (16 * 132 * 1.98e9))
    assert forward.instructions == pytest.approx(1e3 * elements * 4 * 70 / (128 * 132 * 1.98e9))
    assert both.instructions is None  # the backward was not counted
    assert floors(STAGE_1, torch.float32, H200, False, {}).memory == pytest.approx(2 * forward.memory)
    assert (forward.highest, replace(forward, memory=9.0).highest) == (max(forward.memory, forward.special), 9.0)
    whole = floors(replace(STAGE_1, b=512), torch.bfloat16, H200, False, COUNTED)  # routes of one segment
    assert whole.instructions == pytest.approx(32 * forward.instructions * (40 + 30 / 2) / 70)
    counted = COUNTED | {(1, "bfloat16", True): {"segment_states": 30.0, "segment_gradients": 100.0}}
    both, whole = (floors(replace(STAGE_1, b=b), torch.bfloat16, H200, True, counted) for b in (16, 512))
    assert both.instructions == pytest.approx(forward.instructions * (70 + 130) / 70)
    assert whole.instructions == pytest.approx(32 * forward.instructions * (40 + 30 / 2 + 100) / 70)


def test_goals_say_met_not_met_or_not_measured():
    assert at_least("a", 6, [6.5, 7.0]).endswith("measured: 6.50 (worst of 2 of 2 cases)  met")
    assert at_least("a", 6, [5.9, 7.0]).endswith("  not met")
    assert at_least("a", 6, [6.0]).endswith("  met")
    assert at_most("a", 4, [4.0]).endswith("  met")
    assert at_most("a", 4, [3.0, 4.1]).endswith("measured: 4.10 (worst of 2 of 2 cases)  not met")
    assert at_most("a", 4, [3.0, math.nan]).endswith("(worst of 1 of 2 cases)  met where measured")
    assert at_most("a", 4, [math.nan]).endswith("measured: -  not measured")
    rows = [
        Row(name, "ss2d", "bfloat16", replace(STAGE_1, stage=s, image=i, b=b), figures=replace(FIGURES, forward_ms=ms))
        for name, ms in (("triton", 1.0), ("VMamba released", 7.0))
        for i, b in ((448, 16), (224, 128))
        for s in range(1, 5)
    ]
    lines = goals(rows, [])
    assert lines[0].endswith("measured: 7.00 (worst of 8 of 8 cases)  met")
    assert lines[1].endswith("measured: 1.00 (worst of 8 of 8 cases)  not met")


def test_each_goal_is_held_against_its_own_figures():
    """Which all differ, so that a line shows whose it has; what is measured in float32 meets no goal."""
    both_floors = replace(FLOORS, special=0.8)
    scan = replace(FIGURES, forward_ms=0.36, forward_backward_ms=1.8, floors_forward_backward=both_floors)
    figures = {
        ("triton", "ss2d", 448, 16): replace(FIGURES, forward_ms=1.0, forward_backward_ms=2.0),
        ("triton", "ss2d", 224, 128): replace(FIGURES, forward_ms=1.0, forward_backward_ms=2.0),
        ("VMamba released", "ss2d", 448, 16): replace(FIGURES, forward_ms=6.0, forward_backward_ms=9.0),
        ("VMamba released", "ss2d", 224, 128): replace(FIGURES, forward_ms=7.0, forward_backward_ms=11.0),
        ("triton", "ss2d", 448, 1): replace(FIGURES, forward_ms=2.0),
        ("VMamba released", "ss2d", 448, 1): replace(FIGURES, forward_ms=6.8),
        ("triton", "scan", 448, 16): replace(scan, kept_an_element=4.2),
        ("triton", "scan", 224, 128): scan,
        ("triton", "scan", 1024, 6): replace(scan, forward_backward_ms=2.1),
    }
    rows = [
        Row(name, cut, dtype, replace(STAGE_1, stage=s, image=i, b=b), figures=f if dtype == "bfloat16" else FIGURES)
        for dtype in ("bfloat16", "float32")
        for (name, cut, i, b), f in figures.items()
        for s in range(1, 5)
    ]
    networks = [
        ModelRow("VMamba small", name, task, dtype, 64, 224, ms if dtype == "bfloat16" else 1.0, peak)
        for dtype in ("bfloat16", "float32")
        for name, task, ms, peak in (
            ("triton", "training", 10.0, 5),
            ("VMamba released", "training", 16.0, 10),
            ("triton", "inference", 5.0, 6),
            ("VMamba released", "inference", 7.0, 9),
        )
    ]
    lines = [line.partition("measured: ")[2].split("  ") for line in goals(rows, networks)]
    assert [(measured.split()[0], verdict) for measured, verdict in lines] == [
        ("6.00", "met"),
        ("4.50", "not met"),
        ("1.80", "met"),
        ("2.25", "not met"),
        ("4.20", "not met"),
        ("1.19", "not met"),
        ("3.40", "met"),
        ("1.60", "met"),
        ("1.40", "not met"),
        ("0.67", "not met"),
    ]


def test_bytes_kept_count_a_storage_once_and_no_parameter():
    x, weight = (torch.ones(4, 4, requires_grad=True) for _ in range(2))
    assert kept_bytes(lambda: (x * weight) @ weight.T, [weight]) == 2 * 16 * 4  # x, and the product


@pytest.mark.parametrize("path", ["vectorised", "reference loop"])
@pytest.mark.parametrize("side", [28, 56])
def test_cpu_forward_and_backward(benchmark, path, side):
    inputs = drawn.inputs(b=2, side=side, d=192, n=1, r=6)
    run = cpu_paths.PATHS[path]
    benchmark.pedantic(lambda: run(inputs).sum().backward(), rounds=5, warmup_rounds=1)
