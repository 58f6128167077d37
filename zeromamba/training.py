"""One fit of ZeroMamba on one split: epochs, optimiser, resuming. What is done with fits is `protocol.py`'s.

A fit that is interrupted goes on from its last complete epoch. All randomness of an epoch comes from
(seed, epoch), so on a CPU the weights end up bit-identical to those of an uninterrupted fit.
"""

import io
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from .data import ZSLData, normalise
from .device import autocast
from .files import write_bytes
from .losses import objective
from .measuring import Split, loader, progress
from .memory import lacks_memory
from .model import ZeroShotModel
from .settings import Settings

MILESTONES = (10, 20, 30, 40)  # epochs after which the released code halves its learning rates


def is_undecayed(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay spares a parameter.

    That is norms, biases, position embeddings, class tokens and state-space parameters, for which zero is not a neutral
    value.
    """
    return parameter.ndim <= 1 or name.rsplit(".", 1)[-1] in {"A_log", "D", "dt_bias", "pos_embed", "cls_token"}


def make_optimizer(model: ZeroShotModel, settings: Settings) -> torch.optim.Optimizer:
    """The optimiser with the released code's two learning rates; see `Rules.decay_everything`."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    trained = ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
    for name, parameter in trained:
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
        model.backbone.requires_grad_(not settings.freeze_backbone)
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
        self.model.backbone.train(not settings.freeze_backbone)  # frozen, it has no stochastic depth either
        with progress(total=len(split.train), desc=f"epoch {epoch}", unit="img") as bar:
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
                    if not math.isfinite(loss):
                        raise FloatingPointError(
                            f"the loss is {loss} in epoch {epoch} (L_CE {ce}, L_SC {sc}): "
                            "check the data, or begin a new run with a lower --lr"
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
        data = io.BytesIO()  # of a full disk, torch.save says neither which file nor why
        torch.save(state, data)
        write_bytes(self.state_file, data.getbuffer())

    def _restore(self) -> None:
        try:
            state = torch.load(self.state_file, map_location="cpu", weights_only=True)
            self.model.load_state_dict(state["model"])
            self.scheduler.load_state_dict(state["scheduler"])
            self.optimizer.load_state_dict(state["optimizer"])  # last: it holds the rates that the scheduler set
            self.history = state["history"]
        except Exception as error:  # whatever half a file, or one of another version, makes an unpickler do
            if lacks_memory(error) or isinstance(error, (OSError, torch.AcceleratorError)):  # not the file's fault
                raise
            cause = (str(error) or repr(error)).partition("\n")[0]
            advice = "remove it to run this fit again"
            raise ValueError(f"{self.state_file}: cannot be read ({cause}): {advice}") from error


def flip_half(images: Tensor) -> Tensor:
    """Mirror each image (b, 3, H, W) with probability one half."""
    flipped = torch.rand(len(images), 1, 1, 1).to(images.device, non_blocking=True) < 0.5
    return torch.where(flipped, images.flip(-1), images)
