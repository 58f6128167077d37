"""The least time that a scan can take on a card, from counts: bytes, special functions, instructions."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from benchmarks.ahead_of_time import ALIKE, Compiled
from benchmarks.timing import name_of
from zeromamba.kernels.cut import SHIPPED, cdiv
from zeromamba.kernels.triton_math import BLOCK_L

Counts = Mapping[tuple[int, str, bool], Mapping[str, float]]
WARP = 32
SPECIAL_A_CLOCK = 16  # special functions of a multiprocessor a clock (sm_80, sm_90)
# Launches of a pass by kernel: two orders of two routes each, and every route's own gradients.
LAUNCHES = {False: {"segment_states": 2, "segment_outputs": 2}, True: {"segment_states": 2, "segment_gradients": 4}}
ISSUED_A_CLOCK = 4 * WARP  # instructions of a multiprocessor a clock, counted by thread: four warps issue one each


@dataclass(frozen=True)
class Size:
    """One SS2D: a batch of maps and what each token has."""

    stage: int
    image: int  # pixels a side
    b: int
    side: int  # of the map, in tokens
    d: int
    r: int
    n: int = 1
    k: int = 4

    @property
    def elements(self) -> int:
        return self.b * self.side**2 * self.d


@dataclass(frozen=True)
class Card:
    """What a card can do, as measured and as it says of itself."""

    name: str
    bandwidth: float  # bytes a second, a copy's read and written, measured
    multiprocessors: int
    clock: float  # Hz, the highest of the multiprocessors

    @property
    def clocks(self) -> float:
        """Clocks of all multiprocessors a second."""
        return self.multiprocessors * self.clock


@dataclass(frozen=True)
class Floors:
    """The least times in ms; `instructions` is that of the kernels as compiled, None where nothing was compiled."""

    memory: float
    special: float
    instructions: float | None

    @property
    def highest(self) -> float:
        """The larger of the two that hold for any kernel."""
        return max(self.memory, self.special)


def floors(size: Size, dtype: torch.dtype, card: Card, backward: bool, counted: Counts) -> Floors:
    """Of the scan alone, forward, or forward and backward together; the counts are those of `LEGEND`.

    Args:
        counted: of `instructions_an_element`.
    """
    low = size.k * (size.r + 2 * size.n) / size.d  # dt_low, B and C, numbers an element of x
    numbers = (2 + low) + (3 + 2 * low if backward else 0)
    specials = (1 + size.n) + (2 + size.n if backward else 0)
    directions = size.elements * size.k
    name = name_of(dtype)
    parts = [(size.stage, name, part) for part in ((False, True) if backward else (False,))]
    instructions = None
    if all(part in counted for part in parts):
        an_element = sum(
            number * share(kernel, size, part[2]) for part in parts for kernel, number in counted[part].items()
        )
        instructions = directions * an_element / (ISSUED_A_CLOCK * card.clocks)
    return Floors(
        memory=1e3 * size.elements * numbers * dtype.itemsize / card.bandwidth,
        special=1e3 * directions * specials / (SPECIAL_A_CLOCK * card.clocks),
        instructions=None if instructions is None else 1e3 * instructions,
    )


def share(kernel: str, size: Size, backward: bool) -> float:
    """The share of the routes that a kernel of a pass has to do with: routes of one segment need fewer states."""
    chunks = cdiv(size.side**2, BLOCK_L)
    if kernel != "segment_states" or SHIPPED.segment_chunks(size.b, size.k, size.d, chunks) < chunks:
        return 1.0
    return 0.0 if backward else 0.5


def instructions_an_element(rows: list[Compiled]) -> Counts:
    """Instructions an element and direction of each kernel of a pass, by stage, dtype, and whether of the backward.

    It is the mean over the launches of VMamba, one for each route or pair of routes, since each covers its own. A pass
    of which some were not compiled has none.
    """
    found: dict[tuple[int, str, bool], dict[str, list[float]]] = {}
    for row in rows:
        if not row.special and row.kernel not in ALIKE:  # of a 16th of a segment's work, and less
            key = (row.stage, row.dtype, row.backward)
            found.setdefault(key, {}).setdefault(row.kernel, []).append(row.per_element)
    return {
        key: {kernel: sum(v) / len(v) for kernel, v in kernels.items()}
        for key, kernels in found.items()
        if {kernel: len(v) for kernel, v in kernels.items()} == LAUNCHES[key[-1]]
    }


LEGEND = """\
Floors, of the scan alone (dt_low, B, C given; no x_proj, no LayerNorm), for e = b l d elements and k = 4 routes:
  memory        e (2 + c) numbers forward: x read, y written, c = k (r + 2n) / d for dt_low, B and C; backward
                e (3 + 2c) more: x and dy read, dx written, dt_low, B, C read and their gradients written; over the
                bandwidth of a copy, measured here
  special       e k (1 + n) forward: one exp2 for softplus (its logarithm is a polynomial), one for Abar of each state;
                backward e k (2 + n) more: the same recomputed, and one for the slope of softplus; over 16 a clock and
                multiprocessor
  instructions  e k times the instructions an element and direction counted in the compiled kernels that the pass runs
                at this size, as the cut that ships has it, a thread's share of a chunk's loop body; over 128 a clock
                and multiprocessor
share of the floor: the larger of memory and special over the time measured; 100% is as fast as any kernel could be
that takes its exponentials from the special-function units.
fwd, f+b ms: median of warm repeats by CUDA events, L2 cache overwritten before each, launches from Python included;
the goals, the shares and the plot are of these.
device ms: the same with the host 2 ms ahead, so that kernels need not wait for their launches: how long the card is
busy, forward, and forward and backward. Not of the torch path, whose launches take the host longer than that.
difference: the largest of |result - torch path| / |torch path| over y and every gradient, float32 path, same inputs;
or a quarter of the worst token's of y or dx, over the mean token's norm.
kept: bytes that autograd keeps for the backward, parameters not counted, over elements b l d."""
