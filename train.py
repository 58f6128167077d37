"""Train and evaluate ZeroMamba: `python train.py` runs the built-in demo, `--help` lists every setting.

python train.py --dataset cub --data-root data          train, choose on validation classes, test once
python train.py --resume runs/cub/2026-11-24_12-00-00   go on after an interruption
python train.py --eval runs/demo/.../model.safetensors  evaluate a checkpoint again
"""

import argparse
import shlex
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import torch
import tyro
from rich.console import Console

from zeromamba import report
from zeromamba.build import build_model, load_data_sets, load_trained, missing_weights
from zeromamba.checkpoint import RELEASED_SUFFIX, Checkpoint, load_checkpoint
from zeromamba.data import ZSLData
from zeromamba.device import check_scan, pick_device
from zeromamba.entry import errors_in_one_line, expand_home
from zeromamba.files import write_json, write_text
from zeromamba.measuring import score_split
from zeromamba.messages import option
from zeromamba.model import ZeroShotModel
from zeromamba.protocol import SeedRun, final_split, summary
from zeromamba.runs import MACHINE_SETTINGS, first_change, load_settings, make_output_folder, new_folder, open_run
from zeromamba.settings import Settings, preset

# What --eval may change of a checkpoint's settings: no part of the model, and nothing that training alone asks for.
MEASURED_WITH = MACHINE_SETTINGS | {"dataset", "gamma", "image_size", "precision", "batch_size"}


@dataclass(frozen=True)
class CommandLine(Settings):
    """ZeroMamba: zero-shot learning on a Vision-Mamba backbone."""

    out: Path | None = None
    """run folder, by default runs/DATASET/DATE_TIME;
    with --eval: where to save evaluation.json, its table and the class scores, by default nowhere"""
    resume: Path | None = None
    """folder of an interrupted run to continue, with its own settings"""
    eval: Path | None = None
    """checkpoint to evaluate instead of training: .safetensors of a run, or .pth of the released code"""

    def settings(self) -> Settings:
        return Settings(**{f.name: getattr(self, f.name) for f in fields(Settings)})


def parse(argv: list[str] | None) -> tuple[CommandLine, Checkpoint | None]:
    """The command line, and the checkpoint of ours that it evaluates.

    Settings that are not given come from the preset, the resumed run, or that checkpoint.
    """
    argv = expand_home(argv)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name, default in ("dataset", "demo"), ("preset", "paper"), ("resume", None), ("eval", None):
        first.add_argument(option(name), nargs="?", default=default, const=default)  # tyro says what is wrong with it
    known, _ = first.parse_known_args(argv)
    ours = known.eval and not known.eval.endswith(RELEASED_SUFFIX)
    checkpoint = load_checkpoint(Path(known.eval)) if ours else None
    if known.resume is not None:  # an empty one, as of a shell's variable that is not set, is no wish for a new run
        base = load_settings(Path(known.resume))
    elif checkpoint:
        base = checkpoint.record.settings.anywhere()
    else:
        base = preset(known.dataset, "small" if known.preset == "small" else "paper")
    command = tyro.cli(CommandLine, args=argv, default=CommandLine(**vars(base)))
    if checkpoint and (change := first_change(base, command.settings(), MEASURED_WITH)):
        raise ValueError(f"{command.eval} was trained with {change}; --eval cannot change this setting: leave it out")
    if command.resume and (command.eval or command.out):
        raise ValueError(
            f"--resume {command.resume} continues in that folder: leave out --{'eval' if command.eval else 'out'}"
        )
    return command, checkpoint


def prepare_training(command: CommandLine, settings: Settings, device: torch.device) -> tuple[Settings, ZSLData, Path]:
    """The run's settings, its data, and its folder, after a check of all that training needs."""
    settings.fixed_gamma()  # that there is one where the protocol fixes it
    scratch = "; to train from scratch, give --weights None, or --preset small on a small machine"
    (data,) = load_data_sets([settings], [text + scratch for text in missing_weights(settings)])
    build_model(settings, data.V)  # a wrong weights file is found now, not after the first seed
    folder = command.resume or command.out or new_folder(data)
    return open_run(folder, settings, data, device), data, folder


def train(settings: Settings, data: ZSLData, folder: Path, device: torch.device) -> None:
    """One run over all seeds, ending with the table."""
    print(f"run folder: {folder}")
    results = []
    for seed in settings.seeds:  # one that diverges takes nothing from those before
        results.append(SeedRun(settings, data, seed, folder, device).result())
        table = report.result_table(settings, data, results)
        write_json(folder / "results.json", {"mean over seeds": report.aggregate(results), "seeds": results})
        write_text(folder / "table.txt", report.plain(table))
    Console().print(table)


def evaluate(
    checkpoint: Checkpoint,
    model: ZeroShotModel,
    settings: Settings,
    data: ZSLData,
    device: torch.device,
    folder: Path | None,
) -> None:
    """Measure a checkpoint and its model on the test images; the result is kept in the folder, if there is one."""
    record = checkpoint.record
    gamma = record.gamma if settings.gamma is None else settings.gamma
    chosen_by = record.chosen_by
    for name, trained, measured in (
        ("gamma", record.gamma, gamma),
        ("image_size", record.settings.image_size, settings.image_size),
        ("precision", record.settings.precision, settings.precision),
    ):
        if measured != trained:
            chosen_by += f"; measured with {option(name)} {measured} instead of {trained}"
    scores = score_split(model.to(device), data, final_split(data), settings, device)
    evaluation = scores.evaluate(gamma)
    result = {
        "seed": record.seed,
        **summary(evaluation),
        "chosen_by": chosen_by,
        "per_class": evaluation.per_class,
    }
    table = report.result_table(settings, data, [result])
    if folder:  # which may be the run's own
        made_of = {"checkpoint": str(checkpoint.source), "dataset": data.name, "epoch": record.epoch}
        write_json(folder / "evaluation.json", {**made_of, "settings": settings.to_json(), **result})
        write_text(folder / "evaluation.txt", report.plain(table))
        scores.save(folder / "evaluation_scores.npz")
    for name, accuracy in evaluation.per_class["gzsl"].items():
        print(f"{100 * accuracy:6.1f}  {name}" + ("" if name in record.seen_names else "  (unseen)"))
    Console().print(table)


def main(argv: list[str] | None = None) -> None:
    with errors_in_one_line():  # whatever the user gave is checked before anything is computed
        command, checkpoint = parse(argv)
        settings = command.settings()
        device = pick_device(settings.device)
        check_scan(settings.scan, device)
        if command.eval:
            measured, model, data = load_trained(command.eval, checkpoint, settings)
            if command.out:
                make_output_folder(command.out, "evaluation.json", "evaluation.txt", "evaluation_scores.npz")
            goes_on, run = "", partial(evaluate, measured, model, settings, data, device, command.out)
        else:
            settings, data, folder = prepare_training(command, settings, device)
            goes_on = f"python train.py --resume {shlex.quote(str(folder))} continues"
            run = partial(train, settings, data, folder, device)
    with errors_in_one_line(goes_on, memory="A smaller --batch-size or --grad-checkpoint needs less memory"):
        run()


if __name__ == "__main__":
    main()
