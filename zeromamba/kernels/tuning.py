"""Which cut of the work serves a card best. Nothing is ever tuned unasked.

    python -m zeromamba.kernels.tuning      time the choices on this machine's card, keep the fastest for it

The fastest is kept in scan.json in $ZEROMAMBA_CACHE (~/.cache/zeromamba), by the card's name; cards that are not in
there take the choice that ships, and so do all where that folder cannot be read. Another choice may change the last
bits of a result: chunks are summed in other groups.
"""

import functools
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from itertools import product
from pathlib import Path

import torch

from .cut import SHIPPED, Config
from .inputs import Inputs
from .routes import CROSS_SCAN

CHOICES = tuple(Config(d, n) for d, n in product((32, 64), (2048, 8192, 32768)))


def file() -> Path:
    """Where tuned choices are kept."""
    return Path(os.environ.get("ZEROMAMBA_CACHE", Path.home() / ".cache/zeromamba")) / "scan.json"


def config_for(device: torch.device) -> Config:
    """The choice for a device: the tuned one of its card, or the one that ships.

    Raises:
        ValueError: if the file of tuned choices is damaged.
    """
    if device.type != "cuda":
        return SHIPPED
    return _kept().get(torch.cuda.get_device_name(device), SHIPPED)


@functools.cache
def _kept() -> dict[str, Config]:
    """The choice of each card that was tuned for."""
    try:
        content = file().read_bytes()
    except (OSError, RuntimeError):  # there is none, or no home, or it is not ours to read
        return {}
    try:
        return {card: Config(**values) for card, values in json.loads(content).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{file()}: cannot be read as tuned choices ({error}): remove it, or tune again") from error


def tune(card: str, seconds: Callable[[Config], float], choices: Iterable[Config] = CHOICES) -> Config:
    """Keep, for a card, the choice that takes the fewest seconds.

    Raises:
        RuntimeError: no choice runs.
    """
    from triton.errors import TritonError

    best, shortest = None, float("inf")
    for choice in choices:
        try:
            taken = seconds(choice)
        except (RuntimeError, TritonError) as error:  # out of memory, or of the card's resources
            print(f"{choice}: does not run ({error})")
            continue
        print(f"{1e3 * taken:8.2f} ms  {choice}", flush=True)
        if taken < shortest:
            best, shortest = choice, taken
    if best is None:
        raise RuntimeError(f"none of the choices runs on {card}")
    _kept.cache_clear()  # another process may have tuned for another card
    kept = {**_kept(), card: best}
    file().parent.mkdir(parents=True, exist_ok=True)
    temporary = file().with_suffix(f".{os.getpid()}")  # then renamed: the file is whole at any time
    temporary.write_text(json.dumps({name: asdict(config) for name, config in kept.items()}, indent=1))
    temporary.replace(file())
    _kept.cache_clear()
    return best


def seconds_of_vmamba(choice: Config) -> float:
    """Forward and backward of the scans of VMamba-S's four stages at 448 x 448, batch 16, bfloat16."""
    from triton.testing import do_bench

    from . import triton_ss2d  # which imports this module

    total = 0.0
    for side, d, r in ((112, 192, 6), (56, 384, 12), (28, 768, 24), (14, 1536, 48)):

        def maps(*shape: int, side: int = side) -> torch.Tensor:
            return torch.randn(16, side, side, *shape, device="cuda", dtype=torch.bfloat16)

        def parameter(*shape: int) -> torch.Tensor:
            return torch.randn(4, *shape, device="cuda")

        # views of one projection, as in the networks: kernels are compiled for their strides
        dt_low, B, C = maps(4, r + 2).split([r, 1, 1], dim=-1)
        inputs = Inputs(
            maps(d), dt_low, parameter(d, r), parameter(d) - 4, -parameter(d, 1).exp(), B, C, parameter(d)
        )  # fmt: skip
        dy = maps(d)

        def run(inputs: Inputs = inputs, dy: torch.Tensor = dy) -> None:
            _, _, kept = triton_ss2d.forward(inputs, CROSS_SCAN, "euler", True, choice)
            triton_ss2d.backward(dy, kept, inputs, CROSS_SCAN, "euler", True, choice)

        total += do_bench(run, return_mode="median") / 1e3
    return total


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device here: there is nothing to tune")
    card = torch.cuda.get_device_name()
    print(f"{card}: {tune(card, seconds_of_vmamba)}, kept in {file()}")


if __name__ == "__main__":
    main()
