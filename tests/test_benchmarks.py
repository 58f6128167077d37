"""The scan's benchmark without a GPU, and the timings that guard the CPU paths (`pytest --benchmark-only`)."""

import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from benchmarks import cpu_paths, gpu
from benchmarks.ahead_of_time import Compiled
from benchmarks.contenders import CONTENDERS
from benchmarks.floors import Card, Floors, Size, floors, instructions_an_element
from benchmarks.goals import at_least, at_most, goals
from benchmarks.gpu import Figures, Row
from benchmarks.scan import Options, compile_time, main, parse
from benchmarks.timing import kept_bytes

STAGE_1 = Size(stage=1, image=448, b=16, side=112, d=192, r=6)
COUNTED = {(1, "bfloat16", False): {"segment_states": 30.0, "segment_outputs": 40.0}}
H200 = Card("H200", bandwidth=4.3e12, multiprocessors=132, clock=1.98e9)
FLOORS = Floors(memory=0.1, special=0.2, instructions=None)
FIGURES = Figures(1.0, 3.0, None, None, FLOORS, FLOORS, None, kept_an_element=3.5)


@pytest.fixture
def without_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_without_a_gpu_the_cpu_paths_are_timed_and_written(without_gpu, tmp_path, capsys):
    main(Options(json=tmp_path / "new/cpu.json", compile=False, cpu_sides=(3, 4), cpu_channels=8, repeats=2))
    printed = capsys.readouterr().out
    assert "No CUDA device here: no GPU figure is measured" in printed
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


def test_contenders_agree_where_they_can_run_and_are_named_where_not(monkeypatch):
    monkeypatch.delenv("ZEROMAMBA_VMAMBA_REPO", raising=False)
    for name in ("selective_scan_cuda", "selective_scan_cuda_oflex"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(gpu, "SETTINGS", ((448, 1),))  # at the first of which sequences are timed, too
    monkeypatch.setattr(gpu, "sizes", lambda: [Size(1, 448, 1, 4, 16, 2)])
    rows = list(gpu.measure(torch.device("cpu"), H200, (torch.bfloat16,), {}, repeats=1))
    assert [(row.contender, row.cut) for row in rows] == [(c.name, c.cut) for c in CONTENDERS]
    for row in rows:
        if row.contender == "triton" and torch.cuda.is_available():
            assert "failed: ValueError: impl='triton' cannot serve" in row.note  # tensors of a CPU, not interpreted
        elif row.contender in ("torch", "triton"):
            assert row.figures.forward_ms > 0
            assert 0 < row.difference < 0.05
        else:
            assert "cannot be imported" in row.note
    assert any("github.com/MzeroMiko/VMamba" in row.note for row in rows)
    assert len(gpu.table(rows).splitlines()) == len(rows) + 1


def test_a_wrong_contender_on_the_way_to_a_gpu_is_refused(monkeypatch):
    honest = next(c for c in CONTENDERS if (c.name, c.cut) == ("torch", "scan"))

    def prepare(tensors):
        prepared = honest.prepare(tensors)
        return replace(prepared, forward=lambda: 1.2 * prepared.forward())

    monkeypatch.setattr(gpu, "CONTENDERS", (honest, replace(honest, name="wrong", prepare=prepare)))
    monkeypatch.setattr(gpu, "sizes", lambda: [Size(1, 448, 1, 3, 8, 1)])
    right, wrong = gpu.measure(torch.device("cpu"), H200, (torch.float32,), {}, repeats=1)
    assert right.figures.forward_ms > 0
    assert wrong.figures is None
    assert "WRONG" in wrong.note


@pytest.mark.parametrize("cut", ["ss2d", "scan", "1-d"])
def test_one_wrong_token_among_many_is_found(cut, monkeypatch):
    """In bfloat16, whose roundings all tokens have."""
    honest = next(c for c in CONTENDERS if (c.name, c.cut) == ("torch", cut))

    def prepare(tensors):
        prepared = honest.prepare(tensors)

        def forward():
            y = prepared.forward()
            is_wrong = torch.zeros(y.shape, dtype=torch.bool)
            prepared.to_ours(is_wrong)[0, -1].view(-1, y.shape[1 if cut == "1-d" else -1])[-1] = True
            return torch.where(is_wrong, 0, y)

        return replace(prepared, forward=forward)

    monkeypatch.setattr(gpu, "CONTENDERS", (honest, replace(honest, name="wrong", prepare=prepare)))
    monkeypatch.setattr(gpu, "sizes", lambda: [Size(1, 448, 16, 8, 16, 2)])
    right, wrong = gpu.measure(torch.device("cpu"), H200, (torch.bfloat16,), {}, repeats=1)
    assert right.figures.forward_ms > 0
    assert "WRONG" in wrong.note


def test_without_a_result_to_compare_with_no_time_is_reported(monkeypatch):
    def prepare(tensors):
        raise torch.OutOfMemoryError("of the torch path")

    honest = next(c for c in CONTENDERS if (c.name, c.cut) == ("torch", "scan"))
    monkeypatch.setattr(gpu, "CONTENDERS", (replace(honest, prepare=prepare), replace(honest, name="other")))
    monkeypatch.setattr(gpu, "sizes", lambda: [Size(1, 448, 1, 3, 8, 1)])
    rows = list(gpu.measure(torch.device("cpu"), H200, (torch.float32,), {}, repeats=1))
    assert [row.contender for row in rows] == ["torch", "other"]
    assert all("no result to compare with: OutOfMemoryError" in row.note for row in rows)


def test_sequences_come_last_and_at_the_first_setting_alone(monkeypatch):
    def prepare(tensors):
        raise RuntimeError("only the order is asked for")

    contenders = [c for c in CONTENDERS if c.name == "torch" and c.cut != "ss2d"]
    monkeypatch.setattr(gpu, "CONTENDERS", tuple(replace(c, prepare=prepare) for c in contenders))
    monkeypatch.setattr(gpu, "sizes", lambda: [Size(1, i, b, 2, 4, 1) for i, b in gpu.SETTINGS[:2]])
    rows = gpu.measure(torch.device("cpu"), H200, (torch.bfloat16, torch.float32), {}, repeats=1)
    scans = [("scan", dtype, image) for dtype in ("bfloat16", "float32") for image in (448, 224)]
    sequences = [("1-d", dtype, 448) for dtype in ("bfloat16", "float32")]
    assert [(row.cut, row.dtype, row.size.image) for row in rows] == scans + sequences


def test_the_table_has_the_device_s_time_beside_that_of_a_call():
    figures = replace(FIGURES, forward_ms=1.5, forward_backward_ms=4.5)
    figures = replace(figures, device_forward_ms=1.25, device_forward_backward_ms=4.25)
    head, line = gpu.table([Row("triton", "ss2d", "bfloat16", STAGE_1, figures=figures)]).splitlines()
    end = head.index("device fwd, f+b ms") + len("device fwd, f+b ms")
    assert line[:end].split()[-4:] == ["1.500", "4.500", "1.250,", "4.250"]


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
    whole = floors(replace(STAGE_1, b=512), torch.bfloat16, H200, False, COUNTED)  # routes of one segment
    assert whole.instructions == pytest.approx(32 * forward.instructions * (40 + 30 / 2) / 70)


def test_goals_say_met_not_met_or_not_measured():
    assert at_least("a", 6, [6.5, 7.0]).endswith("measured: 6.50 (worst of 2 of 2 cases)  met")
    assert at_least("a", 6, [5.9, 7.0]).endswith("  not met")
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


def test_bytes_kept_count_a_storage_once_and_no_parameter():
    x, weight = (torch.ones(4, 4, requires_grad=True) for _ in range(2))
    assert kept_bytes(lambda: (x * weight) @ weight.T, [weight]) == 2 * 16 * 4  # x, and the product


@pytest.mark.parametrize("path", ["vectorised", "reference loop"])
@pytest.mark.parametrize("side", [28, 56])
def test_cpu_forward_and_backward(benchmark, path, side):
    inputs = cpu_paths.draw(b=2, side=side, d=192, n=1, r=6)
    run = cpu_paths.PATHS[path]
    benchmark.pedantic(lambda: run(inputs).sum().backward(), rounds=5, warmup_rounds=1)
