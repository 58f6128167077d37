"""One fit of ZeroMamba on one split: epochs, optimiser, resuming. What is done with fits is `protocol.py`'s.

A fit that is interrupted goes on from its last complete epoch. All randomness of an epoch comes from
(seed, epoch), so on a CPU the weights end up the same bits as without the interruption.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from tqdm import tqdm

from .data import ImageDataset, ZSLData, normalise
from .evaluation import Bools, Evaluation, Floats, Ints, evaluate
from .files import atomic_write
from .losses import objective
from .model import ZeroShotModel
from .settings import Settings

MILESTONES = (10, 20, 30, 40)  # epochs after which the released code halves its learning rates


@dataclass(frozen=True)
class Split:
    """What one fit trains on and is measured on; all are indices, into the images or the classes of a `ZSLData`."""

    train: Tensor
    evaluated: Tensor  # images of seen and unseen classes, none of which is in train
    seen: Tensor
    unseen: Tensor

    @property
    def candidates(self) -> Tensor:
        """Class ids, seen classes first: class scores are in this order."""
        return torch.cat([self.seen, self.unseen])

    def local(self, labels: Tensor) -> Tensor:
        """Class ids to positions among the candidates."""
        position = torch.full((int(self.candidates.max()) + 1,), -1)
        position[self.candidates] = torch.arange(len(self.candidates))
        return position[labels]


def pick_device(name: str) -> torch.device:
    """The device of a `Settings.device`.

    Raises:
        ValueError: if it cannot be used here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name} cannot be used here: {error}") from error
    return device


def autocast(settings: Settings, device: torch.device) -> AbstractContextManager[Any]:
    """The precision of the forward."""
    return torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16")


def loader(data: ZSLData, indices: Tensor, settings: Settings, *, shuffle: bool = False, seed: int = 0) -> DataLoader:
    """Batches of (images (b, 3, H, W) uint8, image index (b,)); `shuffle` draws the order from `seed`."""
    order = indices[torch.randperm(len(indices), generator=torch.Generator().manual_seed(seed))] if shuffle else indices
    return DataLoader(
        ImageDataset(data.images, order, settings.image_size),
        settings.batch_size,
        num_workers=settings.workers,
        pin_memory=torch.cuda.is_available(),
    )


@torch.inference_mode()
def represent(
    model: ZeroShotModel,
    batches: DataLoader,
    settings: Settings,
    device: torch.device,
    read: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Semantic representations psi (m, a) float32 and image indices (m,) of all images of a loader, on the CPU.

    `read` takes something else than psi from the model: it maps images (b, 3, H, W) to values (b, ...).
    """
    model.eval()
    read = read or model
    values, indices = [], []
    for images, index in tqdm(batches, desc="evaluate", unit="batch", leave=False, dynamic_ncols=True, disable=None):
        with autocast(settings, device):
            values.append(read(normalise(images.to(device, non_blocking=True))).float().cpu())
        indices.append(index)
    return torch.cat(values), torch.cat(indices)


class Scores(NamedTuple):
    """Class scores of the evaluated images of a split, classes by their position among its candidates."""

    logits: Floats  # (m, c) before the softmax of (12)
    labels: Ints  # (m,)
    seen: Bools  # (c,)


def score_split(model: ZeroShotModel, data: ZSLData, split: Split, settings: Settings, device: torch.device) -> Scores:
    """Score the evaluated images of a split against all its candidates.

    Raises:
        FloatingPointError: if a score is not finite: accuracies would be measured all the same.
    """
    psi, indices = represent(model, loader(data, split.evaluated, settings), settings, device)
    with torch.inference_mode():
        logits = model.logits(psi, data.Z[split.candidates])
    if not logits.isfinite().all():
        raise FloatingPointError(
            "class scores are not finite: the training diverged, begin a new run with a lower --lr"
        )
    seen = torch.arange(len(split.candidates)) < len(split.seen)
    return Scores(logits.double().numpy(), split.local(data.labels[indices]).numpy(), seen.numpy())


def evaluate_split(
    model: ZeroShotModel,
    data: ZSLData,
    split: Split,
    settings: Settings,
    gamma: float | None,
    device: torch.device,
) -> Evaluation:
    """Measure a model on the evaluated images of a split; gamma None chooses it there (validation splits only)."""
    class_names = [data.class_names[c] for c in split.candidates]
    return evaluate(*score_split(model, data, split, settings, device), class_names, gamma)


def is_undecayed(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay spares a parameter.

    That is norms, biases, position embeddings, class tokens and state-space parameters, for which zero is not a neutral
    value.
    """
    return parameter.ndim <= 1 or name.rsplit(".", 1)[-1] in {"A_log", "D", "dt_bias", "pos_embed", "cls_token"}


def make_optimizer(model: ZeroShotModel, settings: Settings) -> torch.optim.Optimizer:
    """The optimiser with the released code's two learning rates; see `Rules.decay_everything`."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        lr = settings.lr_mlp if name.startswith("slp.mlp.") else settings.lr
        spared = not settings.rules.decay_everything and is_undecayed(name, parameter)
        groups.setdefault((lr, 0.0 if spared else settings.weight_decay), []).append(parameter)
    params = [{"params": p, "lr": lr, "weight_decay": decay} for (lr, decay), p in groups.items()]
    return torch.optim.SGD(params, momentum=0.9) if settings.optimizer == "sgd" else torch.optim.AdamW(params)


def schedule(settings: Settings, steps_per_epoch: int) -> Callable[[int], float]:
    """Factor on the learning rates as a function of the optimiser's steps taken."""

    def step(done: int) -> float:
        return 0.5 ** sum(done // steps_per_epoch >= milestone for milestone in MILESTONES)

    def cosine(done: int) -> float:
        epoch = done / steps_per_epoch
        if epoch < 1:
            return (done + 1) / steps_per_epoch
        progress = (epoch - 1) / max(settings.epochs - 1, 1)
        return 0.5 + 0.5 * math.cos(math.pi * progress)

    return step if settings.schedule == "step" else cosine


class Fit:
    """A training run on one split, epoch by epoch, kept in `folder`.

    `epochs` trains; the state is on disk when the next epoch starts. An interrupted fit, made anew with the same
    arguments, goes on where it stopped.
    """

    def __init__(
        self,
        model: ZeroShotModel,
        data: ZSLData,
        split: Split,
        settings: Settings,
        seed: int,
        folder: Path,
        device: torch.device,
    ) -> None:
        self.model, self.data, self.split, self.settings = model.to(device), data, split, settings
        self.seed, self.device = seed, device
        self.state_file = folder / "state.pt"
        self.steps_per_epoch = -(-len(split.train) // settings.batch_size)
        self.optimizer = make_optimizer(model, settings)
        self.scheduler = LambdaLR(self.optimizer, schedule(settings, self.steps_per_epoch))
        self.history: list[dict[str, Any]] = []
        if self.state_file.exists():
            self._restore()

    def epochs(self, last: int) -> Iterator[dict[str, Any]]:
        """Train up to epoch `last`; yields each epoch's record, to which the caller may add before it is saved."""
        while len(self.history) < last:
            record = self._train_epoch(len(self.history) + 1)
            yield record
            self.history.append(record)
            self._save()

    def _train_epoch(self, epoch: int) -> dict[str, Any]:
        settings, split, device = self.settings, self.split, self.device
        seed = 1_000_003 * self.seed + epoch
        torch.manual_seed(seed)  # stochastic depth and flips of this epoch
        batches = loader(self.data, split.train, settings, shuffle=settings.rules.shuffle, seed=seed)
        Z = self.data.Z[split.seen].to(device)
        sums, images_seen, start = torch.zeros(3, device=device), 0, time.perf_counter()
        self.model.train()
        with tqdm(
            total=len(split.train), desc=f"epoch {epoch}", unit="img", leave=False, dynamic_ncols=True, disable=None
        ) as bar:
            for images, index in batches:
                images = normalise(flip_half(images.to(device, non_blocking=True)))
                labels = split.local(self.data.labels[index]).to(device, non_blocking=True)
                with autocast(settings, device):
                    psi = self.model(images).float()
                losses = objective(psi, self.model.logits(psi, Z), labels, Z, settings.lambda_sc)
                self.optimizer.zero_grad(set_to_none=True)
                losses.total.backward()
                self.optimizer.step()
                self.scheduler.step()
                sums += torch.stack(losses).detach() * len(index)
                images_seen += len(index)
                bar.update(len(index))
                if images_seen // settings.batch_size % 10 == 1 or images_seen == len(split.train):
                    loss, ce, sc = (sums / images_seen).tolist()  # waits for a GPU: not every step
                    if not loss < float("inf"):
                        raise FloatingPointError(
                            f"the loss is {loss} in epoch {epoch} (L_CE {ce}, L_SC {sc}): "
                            "check the data, begin a new run with a lower --lr"
                        )
                    bar.set_postfix(loss=f"{loss:.3f}", ce=f"{ce:.3f}", sc=f"{sc:.4f}")
        speed = images_seen / (time.perf_counter() - start)
        return {"epoch": epoch, "loss": loss, "ce": ce, "sc": sc, "images_per_second": speed}

    def _save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "history": self.history,
        }
        atomic_write(self.state_file, lambda temporary: torch.save(state, temporary))

    def _restore(self) -> None:
        try:
            state = torch.load(self.state_file, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever half a file makes an unpickler do
            raise ValueError(f"{self.state_file}: cannot be read: remove it, and the fit starts anew") from error
        self.model.load_state_dict(state["model"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.optimizer.load_state_dict(state["optimizer"])  # last: it holds the rates that the scheduler set
        self.history = state["history"]


def flip_half(images: Tensor) -> Tensor:
    """Mirror each image (b, 3, H, W) with probability one half."""
    flipped = torch.rand(len(images), 1, 1, 1).to(images.device) < 0.5
    return torch.where(flipped, images.flip(-1), images)
