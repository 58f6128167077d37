"""What a user of `python -m zeromamba.experiments` may rely on, run as they run it."""

import contextlib
import csv
import io
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from commands import error_of, run_killed

from zeromamba import figures
from zeromamba.backbones import REGISTRY, build_backbone
from zeromamba.backbones.local_vim import LocalVim
from zeromamba.backbones.local_vmamba import LocalVMamba
from zeromamba.backbones.vim import Vim
from zeromamba.build import build_model
from zeromamba.data import load_dataset
from zeromamba.experiments import __main__ as main_module
from zeromamba.experiments import run as run_module
from zeromamba.experiments.__main__ import CommandLine, main, plan_all
from zeromamba.experiments.grids import EXPERIMENTS, REDUCED_NOTE, at_reduced_size
from zeromamba.experiments.tables import csv_rows, markdown, printed_row
from zeromamba.settings import Settings, preset

try:
    figures.require_packages()
except ModuleNotFoundError as error:
    pytest.skip(str(error), allow_module_level=True)

from zeromamba.experiments import charts

SMALL = ("--reduced", "--workers", "0", "--device", "cpu")
REDUCED = {name: at_reduced_size(experiment) for name, experiment in EXPERIMENTS.items()}


def run(*arguments):
    """Run an experiment; returns what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main([*map(str, arguments), *SMALL])
    return printed.getvalue()


def table_of(folder):
    with (folder / "table.csv").open(newline="") as stream:
        return {row["row"]: row for row in csv.DictReader(stream)}


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """Table 7 on a user's folder, never interrupted: its output folder, and what was printed."""
    out = tmp_path_factory.mktemp("experiments")
    return out, run("table7", "--datasets", tiny, "--out", out)


@pytest.fixture(scope="module")
def data(tiny):
    return load_dataset(str(tiny), Path(), seed=0)


def epochs_trained(stdout):
    return [line.split("loss")[0] for line in stdout.splitlines() if line.startswith("seed") and "loss" in line]


def test_an_experiment_killed_and_started_again_loses_no_finished_run_and_repeats_none(finished, tiny, tmp_path):
    arguments = ("table7", "--datasets", tiny, "--out", tmp_path)
    killed = run_killed("zeromamba.experiments.__main__", *arguments, *SMALL, step=8)
    results = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/**/result.json")}
    assert len(results) == 1, "it was killed in the second of three runs"
    going_on = run(*arguments)
    assert {path: path.stat().st_mtime_ns for path in results} == results
    whole = epochs_trained(finished[1])
    assert epochs_trained(killed) + epochs_trained(going_on) == whole
    ours, uninterrupted = (table_of(out / "table7") for out in (tmp_path, finished[0]))
    assert [{**row, "run": ""} for row in ours.values()] == [{**row, "run": ""} for row in uninterrupted.values()]


def test_a_finished_experiment_trains_nothing_and_others_find_its_runs(finished, tiny, tmp_path):
    out, _ = finished
    again = run("table7", "--datasets", tiny, "--out", out)
    assert epochs_trained(again) == []
    assert f"run 3/3: ZeroMamba 448 x 448 on {tiny.name}, seed 0: finished before\n" in again
    figure = run("figure7", "--datasets", tiny, "--out", out)  # ZeroMamba at 64 px is Table 7's last row
    assert epochs_trained(figure) == []
    assert [path.name for path in (out / "figure7").glob("*.png")] == [f"figure7-{tiny.name}.png"]
    (checkpoint,) = out.glob("runs/*/unchanged/seed-0/model.safetensors")
    checkpoint.rename(kept := tmp_path / "model.safetensors")
    with pytest.raises(SystemExit, match=r"model\.safetensors is missing: remove \S*result\.json, too, and the"):
        run("figure7", "--datasets", tiny, "--out", out)
    kept.rename(checkpoint)


def test_the_table_says_that_it_is_reduced_and_how_its_numbers_were_chosen(finished):
    text = (finished[0] / "table7" / "table.md").read_text()
    assert REDUCED_NOTE in text
    assert Settings().chosen_by in text
    assert "VMamba-Nano, 48 px" in text


def test_another_seed_adds_to_a_run_and_a_backbone_that_cannot_be_imported_is_one_row_s_affair(
    finished, tiny, monkeypatch
):
    out, _ = finished

    def without_timm(settings):
        return "timm not installed" if settings.components == "baseline" else None

    monkeypatch.setattr(run_module, "unavailable", without_timm)
    few = [row for row in EXPERIMENTS["table5"].rows if row.name in ("baseline", "without L_SC", "full")]
    monkeypatch.setitem(EXPERIMENTS, "table5", replace(EXPERIMENTS["table5"], rows=tuple(few)))
    run("table5", "--datasets", tiny, "--seeds", 0, 1, "--out", out)
    rows = table_of(out / "table5")
    assert rows["baseline"]["unavailable"] == "timm not installed"
    assert not (out / "runs" / tiny.name / rows["baseline"]["run"]).exists()
    assert "Not run: baseline. timm not installed." in (out / "table5" / "table.md").read_text()
    assert all(row["seeds"] == "0 1" and row["H_deviation"] for name, row in rows.items() if name != "baseline")
    for name in ("full", "without L_SC"):
        row = rows[name]
        values = [float(value) for value in row["czsl_of_seeds"].split()]
        assert (len(values), sum(values) / 2) == (2, pytest.approx(float(row["czsl"]), abs=0.01))
        for seed, epoch, gamma in zip((0, 1), row["chosen_epochs"].split(), row["gammas"].split(), strict=True):
            result = json.loads((out / "runs" / tiny.name / row["run"] / f"seed-{seed}" / "result.json").read_text())
            assert (int(epoch), float(gamma)) == (result["epoch"], result["gamma"])
    without_L_SC = out / "runs" / tiny.name / "lambda_sc=0.0" / "settings.json"
    assert '"lambda_sc": 0.0' in without_L_SC.read_text()


def test_a_setting_that_diverges_takes_no_other_run_with_it(tiny, tmp_path, monkeypatch):
    result = run_module.SeedRun.result

    def diverging(self):
        if self.settings.image_size == 48:
            self.folder.mkdir(parents=True)
            raise FloatingPointError("the loss is nan")
        return result(self)

    monkeypatch.setattr(run_module.SeedRun, "result", diverging)
    assert "the loss is nan" in run("table7", "--datasets", tiny, "--out", tmp_path)
    assert [row["czsl"] != "" for row in table_of(tmp_path / "table7").values()] == [True, False, True]
    note = "Diverged: ZeroMamba 384 x 384, seed 0. the loss is nan."
    assert note in (tmp_path / "table7" / "table.md").read_text()
    monkeypatch.setattr(run_module.SeedRun, "result", result)
    run("table7", "--datasets", tiny, "--out", tmp_path)  # started again, it is tried again
    assert note not in (tmp_path / "table7" / "table.md").read_text()


def test_what_ends_an_experiment_is_told_in_one_line_that_says_how_to_go_on(tiny, tmp_path, monkeypatch):
    for error, told in (
        (KeyboardInterrupt(), "interrupted: the same command continues"),
        (OSError("disk full"), "error: disk full; the same command continues"),
        (torch.OutOfMemoryError("too large"), "--grad-checkpoint needs less memory; the same command continues"),
    ):
        monkeypatch.setattr(run_module.SeedRun, "result", Mock(side_effect=error))
        with pytest.raises(SystemExit, match=told):
            run("table1", "--datasets", tiny, "--out", tmp_path)


def test_the_table_is_there_after_the_first_run(tiny, tmp_path, monkeypatch):
    result = run_module.SeedRun.result

    def interrupted(self):
        if self.settings.image_size > 32:
            raise KeyboardInterrupt
        return result(self)

    monkeypatch.setattr(run_module.SeedRun, "result", interrupted)
    with pytest.raises(SystemExit, match="interrupted"):
        run("table7", "--datasets", tiny, "--out", tmp_path)
    assert [row["czsl"] != "" for row in table_of(tmp_path / "table7").values()] == [True, False, False]


def test_every_row_is_run_for_a_seed_before_the_next_seed(data, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_module, "SeedRun", Mock())
    cells = run_module.plan(REDUCED["table7"], data, {"dataset": str(tiny), "seeds": (0, 1)}, tmp_path)
    list(run_module.run_all(cells, torch.device("cpu")))
    ran = [(call.args[2], call.args[0].image_size) for call in run_module.SeedRun.call_args_list]
    assert ran == [(seed, size) for seed in (0, 1) for size in (32, 48, 64)]


def test_runs_that_differ_have_folders_of_their_own_and_parameters_are_the_whole_model_s(data, tiny, tmp_path):
    names = {
        run_module.run_name(replace(Settings(), **changes), Settings())
        for changes in (
            {},
            {"protocol": "paper"},
            {"gamma": 0.3},
            {"precision": "bf16"},
            {"device": "cpu", "workers": 0},
        )
    }
    assert names == {"unchanged", "protocol=paper", "gamma=0.3", "precision=bf16"}
    (cell, *_) = run_module.plan(REDUCED["table7"], data, {"dataset": str(tiny)}, tmp_path)
    assert cell.params == sum(p.numel() for p in build_model(cell.settings, data.V).parameters())


@pytest.mark.parametrize(("reduced", "folder"), [((), "runs/experiments"), (("--reduced",), "runs/reduced")])
def test_reduced_runs_are_kept_apart_from_whole_ones(reduced, folder, monkeypatch):
    monkeypatch.setattr(main_module, "plan_all", lambda command, experiment, out: sys.exit(f"{out}"))
    with pytest.raises(SystemExit, match=rf"^{folder}$"):
        main(["table1", "--device", "cpu", *reduced])


def test_a_zero_that_is_given_is_not_left_to_the_preset():
    common = CommandLine("table1", gamma=0.0, workers=0).common()
    assert (common["gamma"], common["workers"]) == (0.0, 0)


def test_a_data_set_named_twice_has_its_rows_once(tiny, tmp_path):
    command = CommandLine("table1", datasets=(str(tiny), str(tiny)))
    assert len(plan_all(command, REDUCED["table1"], tmp_path)) == 1


def test_two_data_sets_of_one_name_are_refused(tiny, tmp_path):
    command = CommandLine("table1", datasets=(str(tiny), f"{tiny}/"))
    with pytest.raises(ValueError, match="two have the same name"):
        plan_all(command, REDUCED["table1"], tmp_path)


def test_a_backbone_whose_weights_nobody_released_is_one_row_s_affair(data, tiny, tmp_path):
    (row,) = (row for row in EXPERIMENTS["table4"].rows if row.name == "LocalVim-Small")
    experiment = replace(EXPERIMENTS["table4"], rows=(row,))
    (cell,) = run_module.plan(experiment, data, {"dataset": str(tiny)}, tmp_path)
    assert cell.unavailable == "no weights of LocalVim-Small were released"


def test_what_is_missing_is_named_before_anything_is_trained(tiny, tmp_path):
    with pytest.raises(SystemExit, match=r"vssm_small_0229\S*: no such weights file"):
        main(["table5", "--datasets", str(tiny), "--out", str(tmp_path), "--device", "cpu"])
    with pytest.raises(SystemExit, match="--gamma"):
        run("table7", "--datasets", tiny, "--out", tmp_path, "--protocol", "paper")
    with pytest.raises(SystemExit, match=r"vssm_small_0229\S*: no such weights file"):  # what is missing next
        main(["table7", "--datasets", str(tiny), "--out", str(tmp_path), "--protocol", "paper", "--gamma", "0"])
    assert not (tmp_path / "runs").exists()


def test_all_that_is_missing_is_named_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "timm", None)
    message = error_of(main, "figure1", "--data-root", "nowhere", "--device", "cpu")
    for file in ("vssm_small_0229_ckpt_epoch_222.pth", "vim_s_midclstok_80p5acc.pth", "local_vssm_small.ckpt"):
        assert message.count(f"checkpoints/{file}: no such weights file") == 1
    assert message.count("python -m zeromamba.data.get vmamba --download") == 2, "of VMamba-Small and -Tiny"
    for name in ("cub", "sun", "awa2"):
        assert f"python -m zeromamba.data.get {name} --data-root nowhere" in message
    assert "deit" not in message, "without timm, its weights would be of no use"


def test_a_folder_that_cannot_be_made_is_named_and_what_to_do(tiny, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        SystemExit, match=r"file/table7: cannot write there .* choose a folder you may write with --out"
    ):
        main(["table7", "--reduced", "--datasets", str(tiny), "--device", "cpu", "--out", str(tmp_path / "file")])


def test_no_image_is_decoded_where_weights_are_missing(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny, tmp_path / "broken")
    (tmp_path / "broken/images/class 0/0.png").write_bytes(b"nothing")
    with pytest.raises(SystemExit, match=r"\Aerror: checkpoints/vssm_small_0229\S*: no such weights file[^\n]*\Z"):
        main(["table7", "--datasets", "broken", "--device", "cpu"])


@pytest.mark.parametrize("dataset", ["demo", "cub", "sun", "awa2", "imagenet", "birds"])
@pytest.mark.parametrize("grids", [EXPERIMENTS, REDUCED], ids=["whole", "reduced"])
def test_what_is_not_given_is_the_preset_s(dataset, grids):
    base = grids["table1"].base(dataset)
    assert replace(base, **CommandLine("table1").common()) == base
    assert replace(base, **CommandLine("table1", variant="released").common()).variant == "released"
    assert grids["table1"].base("demo").variant == "paper", "what a default of the command's own would override"


def test_a_variant_that_is_given_has_runs_of_its_own_and_the_table_says_which_it_is(data, tiny, tmp_path):
    """The preset of the user's folder is variant "released": asking for it by name finds the same run."""
    small, folders = replace(REDUCED["table7"], rows=REDUCED["table7"].rows[:1]), {}
    for variant in (None, "released", "paper"):
        common = CommandLine("table7", variant=variant).common() | {"dataset": str(tiny)}
        (cell,) = run_module.plan(small, data, common, tmp_path)
        folders[variant] = cell.folder.name
        assert f"variant {variant or 'released'}. " in markdown(small, [cell])
    assert folders == {None: "image_size=32", "released": "image_size=32", "paper": "variant=paper,image_size=32"}
    scaled = replace(cell, settings=replace(cell.settings, logit_scale=10.0))
    assert "variant paper, class scores times 10. " in markdown(small, [scaled])


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("grids", [EXPERIMENTS, REDUCED], ids=["whole", "reduced"])
def test_every_row_changes_settings_that_exist(name, grids):
    for row in grids[name].rows:
        replace(grids[name].base("cub"), **row.changes)
    assert not grids[name].reduced or grids[name].datasets == ("demo",)


@pytest.mark.parametrize(
    ("name", "kind"), [("vim-nano", Vim), ("localvim-nano", LocalVim), ("localvmamba-nano", LocalVMamba)]
)
def test_a_stand_in_is_a_small_one_of_the_same_architecture(name, kind):
    backbone = build_backbone(name)
    assert type(backbone) is kind
    assert sum(p.numel() for p in backbone.parameters()) < 2_000_000
    assert backbone(torch.randn(2, 3, 64, 64)).pooled.shape == (2, backbone.channels)


def test_a_reduced_row_is_small_and_keeps_what_tells_it_from_others():
    small = {"nano", "vim-nano", "localvim-nano", "localvmamba-nano", "deit-tiny"}
    for experiment in REDUCED.values():
        for row in experiment.rows:
            settings = run_module.row_settings(experiment, row, {"dataset": "demo"})
            assert (settings.backbone in small, settings.weights, settings.epochs) == (True, None, 3)
            assert settings.image_size <= 64
    assert [row.changes["image_size"] for row in REDUCED["table7"].rows] == [32, 48, 64]
    for whole, reduced in zip(EXPERIMENTS["figure1"].rows, REDUCED["figure1"].rows, strict=True):
        titles = (REGISTRY[row.changes.get("backbone", "small")].title for row in (whole, reduced))
        of_whole, of_reduced = (title.partition("-")[0].replace("Dei", "Vi") for title in titles)
        assert of_whole == of_reduced, "the architecture, of which DeiT's and ViT's is one"


def test_printed_numbers_stand_beside_measured_ones(data):
    """On CUB, every method of Table 1 has a line; a part of the classes is said not to compare."""
    cub = replace(data, name="cub", partial="not the whole of CUB: 7 classes")
    cell = run_module.Cell(EXPERIMENTS["table1"].rows[0], cub, preset("cub", "paper"), Path("nowhere"), 51_300_000)
    text = markdown(EXPERIMENTS["table1"], [cell])
    line = next(line for line in text.splitlines() if line.startswith("| ZeroMamba"))
    assert "| 80.0 |" in line
    assert "| 51.3 |" in line
    assert "ZSLViT (ViT-Base, CVPR'24)" in text
    assert "not the whole of CUB: 7 classes; results do not compare with published ones" in text


def test_printed_numbers_do_not_stand_beside_a_folder_that_has_a_data_set_s_name(data):
    data = replace(data, name="cub")
    settings = replace(preset("cub", "paper"), dataset="./cub")
    for name in ("table1", "figure6"):
        cells = [run_module.Cell(row, data, settings, Path("nowhere")) for row in EXPERIMENTS[name].rows]
        assert not any(printed_row(cell) for cell in cells)
        assert "The paper prints no number" in markdown(EXPERIMENTS[name], cells)


def test_a_sweep_stands_beside_the_printed_number_at_the_published_setting_alone(data):
    cub = replace(data, name="cub")
    rows = {row.name: row for row in EXPERIMENTS["figure6"].rows}
    settings = preset("cub", "paper")
    printed = {name: printed_row(run_module.Cell(row, cub, settings, Path("nowhere"))) for name, row in rows.items()}
    assert {name for name, row in printed.items() if row} == {"lambda_SC = 1", "batch = 16"}
    assert printed["batch = 16"].H == 74.2


def test_a_caption_names_the_finished_seeds_and_every_part_of_a_data_set(data, tmp_path):
    settings = replace(REDUCED["figure6"].base("cub"), seeds=(0, 1))
    cells = [
        run_module.Cell(
            row,
            replace(data, name=name, partial=partial),
            replace(settings, dataset=name, variant=variant),
            tmp_path / name,
        )
        for name, variant, partial in (("mine", "released", ""), ("cub", "paper", "not the whole of CUB: 7 classes"))
        for row in REDUCED["figure6"].rows[:2]
    ]
    made = {"seed": 1, "chosen_by": "chosen somehow", "epoch": 1}
    result = made | dict.fromkeys(("czsl", "U", "S", "H", "ausuc", "gamma"), 0.5)
    (tmp_path / "mine/seed-1").mkdir(parents=True)
    (tmp_path / "mine/seed-1/result.json").write_text(json.dumps(result))
    figure = charts.draw(REDUCED["figure6"], cells, torch.device("cpu"))[""]
    text = " ".join(" ".join(t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text"))).split())
    assert "Seeds 1; variant released (cub: variant paper); protocol: chosen somehow." in text
    assert "cub: not the whole of CUB: 7 classes; results do not compare with published ones." in text
    assert "mine:" not in text


def leave_results(folder, *results):
    """What two finished seeds leave of a run, with accuracies that are made up."""
    for seed, accuracies in enumerate(results):
        (folder / f"seed-{seed}").mkdir(parents=True)
        result = {"seed": seed, "chosen_by": "chosen somehow", "epoch": 3, "gamma": 0.2, "ausuc": 0.3, **accuracies}
        (folder / f"seed-{seed}" / "result.json").write_text(json.dumps(result))


MADE_UP = (
    {"czsl": 0.50, "U": 0.10, "S": 0.20, "H": 0.15, "epoch_czsl": 7},
    {"czsl": 0.70, "U": 0.16, "S": 0.28, "H": 0.25},
)
MEANS = {"czsl": 60.0, "U": 13.0, "S": 24.0, "H": 20.0}  # percent
DEVIATIONS = {"czsl": 200**0.5, "U": 18**0.5, "S": 32**0.5, "H": 50**0.5}


def cells_of(name, data, tmp_path):
    """Cells of an experiment on what is called CUB, all with the made-up results."""
    cub, settings = replace(data, name="cub"), preset("cub", "paper")
    leave_results(tmp_path, *MADE_UP)
    return [
        run_module.Cell(row, cub, replace(settings, seeds=(0, 1), **row.changes), tmp_path, 2_000_000)
        for row in EXPERIMENTS[name].rows
    ]


def shown(axes):
    """Measured points of a figure, (x, y, deviation) of each, and the hollow ones, (x, y)."""
    measured = [
        (x, y, (segment[1][1] - segment[0][1]) / 2)
        for line, _, (bars,) in axes.containers
        for x, y, segment in zip(*line.get_data(), bars.get_segments(), strict=True)
    ]
    hollow = [
        (x, y)
        for line in axes.lines
        if line.get_markerfacecolor() == "none"
        for x, y in zip(*line.get_data(), strict=True)
    ]
    return measured, hollow


def test_sweeps_show_each_metric_in_percent_and_the_printed_one_at_its_setting(data, tmp_path):
    cells = cells_of("figure6", data, tmp_path)
    of_lambda, of_batch = charts.draw(EXPERIMENTS["figure6"], cells, torch.device("cpu"))[""].axes
    for axes, values in (of_lambda, (0, 0.2, 0.5, 1, 2)), (of_batch, (8, 16, 32)):
        assert [float(label.get_text()) for label in axes.get_xticklabels()] == list(values)
        measured, hollow = shown(axes)
        assert measured == [
            (i, pytest.approx(MEANS[m]), pytest.approx(DEVIATIONS[m])) for m in MEANS for i in range(len(values))
        ]
        published = values.index(1 if axes is of_lambda else 16)
        printed = printed_row(cells[3])
        assert hollow == [(published, getattr(printed, m)) for m in MEANS]


def test_accuracies_over_parameters_are_the_measured_and_the_printed_ones(data, tmp_path):
    cells = cells_of("figure1", data, tmp_path)
    figure = charts.draw(EXPERIMENTS["figure1"], cells, torch.device("cpu"))[""]
    for axes, m in zip(figure.axes, ("czsl", "H"), strict=True):
        assert axes.get_ylabel() == {"czsl": "CZSL, %", "H": "H, %"}[m]
        measured, hollow = shown(axes)
        assert measured == [(2, pytest.approx(MEANS[m]), pytest.approx(DEVIATIONS[m]))] * len(cells)
        printed = [row for row in map(printed_row, cells) if row and getattr(row, m) is not None]
        assert hollow == [(row.params or 2, getattr(row, m)) for row in printed]


def test_the_tables_have_means_deviations_and_the_printed_numbers_beside_them(data, tmp_path):
    cells = cells_of("table1", data, tmp_path)
    (row,) = csv_rows(EXPERIMENTS["table1"], cells)
    printed = {"czsl": 80.0, "U": 72.1, "S": 76.4, "H": 74.2}
    for m, mean in MEANS.items():
        assert (row[m], row[f"{m}_deviation"]) == (mean, round(DEVIATIONS[m], 2))
        assert row[f"{m}_of_seeds"] == " ".join(str(round(100 * result[m], 2)) for result in MADE_UP)
        assert row[f"{m}_printed"] == printed[m]
    assert (row["seeds"], row["chosen_epochs"], row["chosen_epochs_czsl"]) == ("0 1", "3 3", "7 3")
    text = markdown(EXPERIMENTS["table1"], cells)
    measured = "60.0 ± 14.1 | 80.0 | 13.0 ± 4.2 | 72.1 | 24.0 ± 5.7 | 76.4 | 20.0 ± 7.1 | 74.2 | 30.0 ± 0.0"
    assert f"\n| ZeroMamba | {measured} | 2 of 2 | 2.0 | VMamba-Small, 448 px, up to 100 epochs |\n" in text
    assert "\n| ZSLViT (ViT-Base, CVPR'24) |  | 78.9 |  | 69.4 |  | 78.2 |  | 73.6 |  |" in text
    assert "Chance in CZSL: 50.0. " in text


def test_the_rows_are_the_paper_s():
    """What a row is called is what it runs, and which printed numbers it stands beside."""
    named = {
        (name, row.name): {**row.changes} for name in ("table4", "table5", "table6") for row in EXPERIMENTS[name].rows
    }
    mlp = {"components": "baseline"}
    assert named == {
        ("table4", "LocalVim-Tiny"): {"backbone": "localvim-tiny", **mlp},
        ("table4", "Vim-Small"): {"backbone": "vim-small", **mlp},
        ("table4", "LocalVim-Small"): {"backbone": "localvim-small", **mlp},
        ("table4", "LocalVMamba-Small"): {"backbone": "localvmamba-small", **mlp},
        ("table4", "ZeroMamba-Tiny"): {"backbone": "tiny"},
        ("table4", "ZeroMamba-Small"): {},
        ("table5", "baseline"): mlp,
        ("table5", "without SLP"): {"components": "without-slp"},
        ("table5", "without GRL"): {"components": "without-grl"},
        ("table5", "without L_SC"): {"lambda_sc": 0.0},
        ("table5", "full"): {},
        ("table6", "DeiT-Small"): {"backbone": "deit-small", **mlp},
        ("table6", "DeiT-Base"): {"backbone": "deit-base", **mlp},
        ("table6", "ViT-Base"): {"backbone": "vit-base", **mlp},
        ("table6", "VMamba-Small"): {"backbone": "small", **mlp},
        ("table6", "ZeroMamba-Small"): {},
    }
    whole = {name: [row.changes for row in experiment.rows] for name, experiment in EXPERIMENTS.items()}
    assert whole["table7"] == [{"image_size": n} for n in (224, 384, 448)]
    assert whole["table1"] == whole["table3"] == whole["figure7"] == [{}]
    assert whole["figure1"] == whole["table4"] + whole["table6"][:-1], "whose last row is one of Table 4"
    assert {name: experiment.datasets for name, experiment in EXPERIMENTS.items()} == {
        **dict.fromkeys(("table1", "table4", "table6", "table7", "figure1"), ("cub", "sun", "awa2")),
        **dict.fromkeys(("table5", "figure6", "figure7"), ("cub", "sun")),
        "table3": ("imagenet",),
    }
    for name, experiment in EXPERIMENTS.items():
        assert all(row.printed[1] == row.name for row in experiment.rows if row.printed)
        table = name.replace("table", "Table ") if name.startswith("table") else None
        assert experiment.source == table, "whose other methods stand beside"
