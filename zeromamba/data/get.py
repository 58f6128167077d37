"""What a data folder has and lacks: python -m zeromamba.data.get cub --data-root data [--download]"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from .download import DownloadError, download, unpack
from .sources import SOURCES, Part, Source

Name = Literal["cub", "sun", "awa2", "imagenet", "vmamba"]


@dataclass(frozen=True)
class CommandLine:
    """Say, file by file, what of a data set is there and what is missing, from where, and how large it is."""

    dataset: Annotated[Name, tyro.conf.Positional]
    """data set; vmamba: the pretrained backbones of all sizes"""
    data_root: Path = Path("data")
    """folder that holds CUB/, SUN/, AWA2/, ImageNet/, xlsa17/ and w2v/"""
    checkpoints: Path = Path("checkpoints")
    """folder that holds pretrained weights"""
    download: bool = False
    """fetch what is missing and has a public address; a broken download goes on where it broke off"""


def place(source: Source, part: Part, command: CommandLine) -> Path:
    """Where a part belongs, or is."""
    folder = command.data_root if source.folder == "data" else command.checkpoints
    path, other = folder / part.path, folder / part.alternative
    return other if part.alternative and other.exists() and not path.exists() else path


def state(source: Source, part: Part, path: Path) -> tuple[bool, str]:
    """Whether a part is there in full, and a word on it."""
    if not path.exists():
        return False, "missing"
    if part.images:
        found = sum(1 for file in path.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg"))
        return found >= part.images, f"{found:,} of {part.images:,} images"
    size = path.stat().st_size
    if source.size is not None and not part.member and size != source.size:
        return False, f"there, but {size:,} bytes: the published file has {source.size:,}"
    return True, "there"


def report(command: CommandLine) -> list[Source]:
    """Print the state of every part, and return the sources of which something is missing."""
    incomplete = []
    for source in SOURCES[command.dataset]:
        paths = [place(source, part, command) for part in source.parts]
        states = [state(source, part, path) for part, path in zip(source.parts, paths, strict=True)]
        for path, (whole, word) in zip(paths, states, strict=True):
            print(f"{'ok' if whole else '--':<4}{path}  ({word})")
        if not all(whole for whole, _ in states):
            incomplete.append(source)
            note = ", optional" * source.optional + ("" if source.direct else ", not by this command")
            weight = f" ({source.weight}{note})" if source.weight else ""
            print(f"      {source.what}\n      from {source.origin}{weight}")
    return incomplete


def fetch(source: Source, command: CommandLine) -> None:
    """Download a source and put its parts in place; archives are kept, several data sets may need one.

    Raises:
        DownloadError, ValueError: as `download` and `unpack`.
    """
    if not source.parts[0].member:
        target = place(source, source.parts[0], command)
        if target.exists():
            raise ValueError(f"{target} is there, but not the published file: remove it to download that one")
        download(source.origin, target, size=source.size, digest=source.digest)
        return
    archive = command.data_root / "downloads" / source.filename
    if not archive.exists():
        download(source.origin, archive, size=source.size, digest=source.digest)
    print(f"unpacking {archive}")
    lacking = unpack(archive, {part.member: place(source, part, command) for part in source.parts})
    if lacking:
        raise ValueError(f"{archive} has no {', '.join(lacking)}")


def main(argv: list[str] | None = None) -> None:
    command = tyro.cli(CommandLine, args=argv)
    incomplete = report(command)
    if command.download:
        errors = []
        for source in incomplete:
            if not source.direct:
                continue
            try:
                fetch(source, command)
            except (DownloadError, ValueError) as error:
                errors.append(f"error: {error}")
                print(errors[-1], file=sys.stderr)
        print()
        incomplete = report(command)
        if (command.data_root / "downloads").is_dir():
            print(f"The archives in {command.data_root / 'downloads'} are no longer needed once all is unpacked.")
    needed = [source for source in incomplete if not source.optional]
    if needed:
        sys.exit(f"{len(needed)} of {len(SOURCES[command.dataset])} sources are not complete")


if __name__ == "__main__":
    main()
