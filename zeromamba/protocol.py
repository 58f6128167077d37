"""How a number is made: which images a fit sees, and what chooses the epoch and gamma.

validation (default)  A first fit trains without the validation classes; the epoch with the largest area under the
                      seen-unseen curve on validation images, and (unless given) gamma there are chosen. A second
                      fit trains on all seen classes for that many epochs and meets the test images once.
paper                 As the released code: one fit on all seen classes, tested after every epoch with a fixed gamma;
                      the best epoch on the test images is reported, one for CZSL and one for GZSL.
"""

import gc
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from .build import build_model
from .checkpoint import Record, save_checkpoint
from .data import ZSLData, validation_split
from .evaluation import Evaluation
from .files import read_json, write_json
from .machine import versions
from .measuring import Scores, Split, score_split
from .settings import ProtocolName, Settings
from .training import Fit

RESULT = "result.json"  # of a seed, in its folder; written last
SEED_ANEW = "remove it to run this seed again"  # what to do about a broken file of a seed
# What tables and charts read of a result.
RESULT_KINDS: dict[str, type] = {
    "seed": int,
    "chosen_by": str,
    "epoch": int,
    **dict.fromkeys(("czsl", "U", "S", "H", "ausuc", "gamma"), float),
}


def search_split(data: ZSLData, seed: int) -> Split:
    """Train without the validation classes; measure on them and on held-out images of the other seen classes."""
    train, val_seen, val_unseen = validation_split(data, seed)
    remaining = data.seen[~torch.isin(data.seen, data.val_classes)]
    return Split(train, torch.cat([val_seen, val_unseen]), remaining, data.val_classes)


def final_split(data: ZSLData) -> Split:
    """Train on all seen classes; measure on the test images."""
    return Split(data.trainval, torch.cat([data.test_seen, data.test_unseen]), data.seen, data.unseen)


def seed_folder(run: Path, seed: int) -> Path:
    """Where a run keeps all that is of one seed."""
    return run / f"seed-{seed}"


def final_checkpoint(folder: Path, protocol: ProtocolName) -> Path:
    """The checkpoint in a finished seed's folder whose U, S and H are its result's."""
    return folder / ("model_best_gzsl.safetensors" if protocol == "paper" else "model.safetensors")


def finished(folder: Path) -> dict[str, Any] | None:
    """The result in a seed's folder (accuracies as fractions); None where it is not finished.

    Raises:
        ValueError: if it cannot be read, or lacks what tables need.
    """
    file = folder / RESULT
    return _result(file) if file.exists() else None


@cache  # tables ask for every result after every run, and one that is there changes no more
def _result(file: Path) -> dict[str, Any]:
    return read_json(file, SEED_ANEW, **RESULT_KINDS)


class SeedRun:
    """All that is done for one seed, kept in its folder of the run: the result, checkpoints, TensorBoard files."""

    def __init__(self, settings: Settings, data: ZSLData, seed: int, run: Path, device: torch.device) -> None:
        self.settings, self.data, self.seed, self.device = settings, data, seed, device
        self.folder = seed_folder(run, seed)

    def result(self) -> dict[str, Any]:
        """Run what is not done yet, and return the result, as `finished` gives it."""
        file = self.folder / RESULT
        if (result := finished(self.folder)) is not None:
            print(f"seed {self.seed}: finished before, read from {file}")
        else:
            run = self._paper if self.settings.protocol == "paper" else self._validation
            result = {"seed": self.seed, "versions": versions(self.device), **run()}
            write_json(file, result)
        for name in ("*/state.pt", "*/.state.pt.*.tmp", ".model*.tmp", ".scores*.tmp"):  # the last ones by a kill
            for left in self.folder.glob(name):
                left.unlink(missing_ok=True)
        return result

    def _validation(self) -> dict[str, Any]:
        settings, data = self.settings, self.data
        search = self._search()
        gc.collect()  # its optimiser and schedule, which refer to each other, would take the next fit's memory
        chosen = max(search, key=lambda record: record["ausuc"])
        chosen_by = settings.chosen_by
        if settings.gamma is None and chosen["H"] == 0:
            chosen_by += " (gamma 0: H was 0 on validation images whatever gamma was)"

        final = self._fit("final", final_split(data))
        self._train(final, "final", chosen["epoch"])
        scores = self._score(final)
        test = scores.evaluate(chosen["gamma"])
        self._save(final, scores, chosen["epoch"], chosen["gamma"], chosen_by)
        return {
            "chosen_by": chosen_by,
            **summary(test),
            "epoch": chosen["epoch"],
            "per_class": test.per_class,
            "validation": {k: chosen[k] for k in summary(test)},
            "history": {"search": search, "final": final.history},
        }

    def _search(self) -> list[dict[str, Any]]:
        """Each epoch's record of a fit without the validation classes, measured on validation images."""
        fit = self._fit("search", search_split(self.data, self.seed))

        def measure(record: dict[str, Any]) -> None:
            record |= summary(self._score(fit).evaluate(self.settings.gamma))

        self._train(fit, "search", self.settings.epochs, measure)
        return fit.history

    def _paper(self) -> dict[str, Any]:
        settings, data = self.settings, self.data
        split, gamma = final_split(data), settings.fixed_gamma()
        assert gamma is not None, "Settings.fixed_gamma gives one under the paper's protocol"
        fit = self._fit("final", split)

        def measure(record: dict[str, Any]) -> None:
            scores = self._score(fit)
            test = scores.evaluate(gamma)
            record |= summary(test)
            record |= {f"per_class_{kind}": accuracies for kind, accuracies in test.per_class.items()}
            kinds = (("czsl", "CZSL"), ("gzsl", "U, S, H and AUSUC"))
            for (kind, measures), best in zip(kinds, best_epochs([*fit.history, record]), strict=True):
                if best is record:
                    chosen_by = f"{settings.chosen_by}; this is the epoch for {measures}"
                    self._save(fit, scores, record["epoch"], gamma, chosen_by, suffix=f"_best_{kind}")

        self._train(fit, "final", settings.epochs, measure)
        czsl, gzsl = best_epochs(fit.history)
        keys = ("U", "S", "H", "ausuc", "gamma")
        return {
            "chosen_by": settings.chosen_by,
            "czsl": czsl["czsl"],
            **{k: gzsl[k] for k in keys},
            "epoch": gzsl["epoch"],
            "epoch_czsl": czsl["epoch"],
            "per_class": {"czsl": czsl["per_class_czsl"], "gzsl": gzsl["per_class_gzsl"]},
            "history": {"final": fit.history},
        }

    def _fit(self, name: str, split: Split) -> Fit:
        torch.manual_seed(self.seed)  # the initial weights
        model = build_model(self.settings, self.data.V)
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return Fit(model, self.data, split, self.settings, self.seed, folder, self.device)

    def _train(self, fit: Fit, name: str, epochs: int, measure: Callable[[dict[str, Any]], None] | None = None) -> None:
        """Train up to an epoch, measuring and logging after each."""
        if 0 < len(fit.history) < epochs:
            print(f"seed {self.seed}  {name}  continues after epoch {len(fit.history)}")
        with SummaryWriter(str(self.folder / name), purge_step=len(fit.history) + 1) as writer:
            for record in fit.epochs(epochs):
                if measure:
                    measure(record)
                numbers = {k: v for k, v in record.items() if isinstance(v, float)}
                for key, value in numbers.items():
                    writer.add_scalar(key, value, record["epoch"])
                shown = "  ".join(f"{k} {v:.4g}" for k, v in numbers.items())
                print(f"seed {self.seed}  {name}  epoch {record['epoch']}/{epochs}  {shown}", flush=True)

    def _score(self, fit: Fit) -> Scores:
        return score_split(fit.model, self.data, fit.split, self.settings, self.device)

    def _save(self, fit: Fit, scores: Scores, epoch: int, gamma: float, chosen_by: str, suffix: str = "") -> None:
        record = Record.of(
            self.data, settings=self.settings, seed=self.seed, epoch=epoch, gamma=gamma, chosen_by=chosen_by
        )
        save_checkpoint(self.folder / f"model{suffix}.safetensors", fit.model, self.data, record)
        scores.save(self.folder / f"scores{suffix}.npz")


def best_epochs(history: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The records of the best CZSL and of the best H; of equal ones, as the released code, the last and the first."""
    return max(reversed(history), key=lambda record: record["czsl"]), max(history, key=lambda record: record["H"])


def summary(evaluation: Evaluation) -> dict[str, float]:
    """The numbers of an evaluation, accuracies as fractions."""
    g = evaluation.gzsl
    return {
        "czsl": evaluation.czsl,
        "U": g.U,
        "S": g.S,
        "H": g.H,
        "ausuc": evaluation.ausuc,
        "gamma": g.gamma,
    }
