"""How the kernels' work is cut into programs: blocks of channels, and segments of a route's chunks."""

from dataclasses import dataclass


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up. Triton's own takes microseconds."""
    return -(-a // b)


@dataclass(frozen=True)
class Config:
    """How the work is cut: the same for every image size, so that no size compiles anew."""

    block_d: int = 64  # channels of a program, two to a thread
    # An upper bound on images x routes x blocks of channels x segments. Where the first three alone exceed it, a route
    # is one segment. A launch covers one order or one route: for SS2D a half or a quarter of these.
    programs: int = 8192

    def __post_init__(self) -> None:
        if self.block_d not in (32, 64):
            raise ValueError(f"block_d: expected 32 or 64 channels, one or two to a thread, got {self.block_d}")
        if not isinstance(self.programs, int) or self.programs < 1:
            raise ValueError(f"programs: expected a whole number of 1 or more, got {self.programs!r}")

    def blocks_d(self, d: int) -> int:
        """Blocks of d channels."""
        return cdiv(d, self.block_d)

    def segment_chunks(self, b: int, k: int, d: int, chunks: int) -> int:
        """Chunks of a segment. It follows from shapes alone, so that results do not depend on the device."""
        segments = min(chunks, max(1, self.programs // (b * k * self.blocks_d(d))))
        return cdiv(chunks, segments)


#: From registers and instructions counted by benchmarks/ahead_of_time.py, for sm_80 and sm_90 alike.
SHIPPED = Config()
