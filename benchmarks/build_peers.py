"""Build the peers' CUDA scans for the GPU that is here, from unchanged clones of their repositories.

    python benchmarks/build_peers.py vmamba CLONE INTO     INTO/selective_scan_cuda_oflex*.so
    python benchmarks/build_peers.py mamba  CLONE INTO     INTO/selective_scan_cuda*.so

Needs nvcc, ninja and a visible GPU. INTO on PYTHONPATH then makes them importable for `benchmarks/scan.py`.
"""

import argparse
import shutil
from pathlib import Path

import torch
from torch.utils.cpp_extension import load

# Module, its folder in the clone, and the patterns of what to compile there.
PEERS = {
    "vmamba": ("selective_scan_cuda_oflex", "kernels/selective_scan/csrc/selective_scan", "cusoflex/*"),
    "mamba": ("selective_scan_cuda", "csrc/selective_scan", "*"),
}
# CUB calls that CUDA 13 removed, and what they were.
REMOVED = {"cub::LaneId()": "(threadIdx.x & 31)", "cub::CTA_SYNC()": "__syncthreads()"}
HALF_OPERATORS = [
    f"-U__CUDA_NO_{name}__"
    for name in ("HALF_OPERATORS", "HALF_CONVERSIONS", "BFLOAT16_OPERATORS", "BFLOAT16_CONVERSIONS",
                 "BFLOAT162_OPERATORS", "BFLOAT162_CONVERSIONS")
]  # fmt: skip


def build(peer: str, clone: Path, into: Path) -> None:
    """Compile a copy with the flags of the peer's own setup.py, for this card alone."""
    name, folder, pattern = PEERS[peer]
    if not (clone / folder).is_dir():
        raise SystemExit(f"{clone / folder}: no such folder, expected a clone of the repository of {peer}")
    source, built = into / f"{name}-source", into / f"{name}-build"
    shutil.copytree(clone / folder, source, dirs_exist_ok=True)
    for path in source.rglob("*.cuh"):
        text = path.read_text()
        for call, replacement in REMOVED.items():
            text = text.replace(call, replacement)
        path.write_text(text)
    built.mkdir(exist_ok=True)
    major, minor = torch.cuda.get_device_capability()
    load(
        name,
        sources=[str(path) for path in sorted(source.glob(pattern)) if path.suffix in (".cpp", ".cu")],
        extra_include_paths=[str(source)],
        extra_cflags=["-O3", "-std=c++17"],
        extra_cuda_cflags=["-O3", "-std=c++17", "--expt-relaxed-constexpr", "--expt-extended-lambda", "--use_fast_math",
                           f"-gencode=arch=compute_{major}{minor},code=sm_{major}{minor}", *HALF_OPERATORS],
        build_directory=str(built),
        verbose=True,
    )  # fmt: skip
    for module in built.glob(f"{name}*.so"):
        shutil.copy(module, into)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=list(PEERS))
    parser.add_argument("clone", type=Path)
    parser.add_argument("into", type=Path)
    arguments = parser.parse_args()
    build(arguments.peer, arguments.clone, arguments.into)
