"""What a data folder has and lacks: python -m zeromamba.data.get cub --data-root data [--download]"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from ..entry import errors_in_one_line, expand_home
from .download import DownloadError, check, download, unpack
from .sources import SOURCES, Name, Part, Source
from .word_vectors import read_pickled_array, word_vectors


@dataclass(frozen=True)
class CommandLine:
    """List which files of a data set are there and which are missing, with their sources and sizes."""

    dataset: tyro.conf.Positional[Name]
    """data set, or vmamba: the pretrained VMamba backbones of all sizes"""
    data_root: Path = Path("data")
    """folder that holds CUB/, SUN/, AWA2/, ImageNet/, xlsa17/ and w2v/"""
    checkpoints: Path = Path("checkpoints")
    """folder that holds pretrained weights"""
    download: bool = False
    """fetch missing files that have a public address; resumes an interrupted download"""


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
    if source.size is None or part.member or size == source.size:
        return True, "there"
    if not part.vectors:
        return False, f"there, but {size:,} bytes: the published file has {source.size:,}"
    names = [f"attribute {i + 1}" for i in range(part.vectors)]
    try:  # those that zeromamba.embeddings makes serve as well, if the loader takes them
        word_vectors(read_pickled_array(path), names, str(path), repair=True)
    except ValueError as error:
        return False, f"there, but unusable: {error}"
    return True, "there, but not the published file"


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
            print(f"      {source.what}\n      from {source.origin.format(root=command.data_root)}{weight}")
    return incomplete


def arrival(source: Source, command: CommandLine) -> Path:
    """Where a download arrives: in its place, or for an archive, which several data sets may need, in downloads/."""
    if source.parts[0].member:
        return command.data_root / "downloads" / source.filename
    return place(source, source.parts[0], command)


def fetch(source: Source, command: CommandLine) -> None:
    """Download a source and put its parts in place; archives are kept.

    Raises:
        DownloadError, ValueError: as `download` and `unpack`, and for a file of the user's own that is in the way.
    """
    path, archive = arrival(source, command), bool(source.parts[0].member)
    if path.exists() and not archive:
        raise ValueError(f"{path} is there, but is not the published file: remove it to download that file")
    if path.exists():
        check(path, source.size, source.digest, str(path))
    else:
        download(source.origin, path, size=source.size, digest=source.digest)
    if archive:
        print(f"unpacking {path}")
        lacking = unpack(path, {part.member: place(source, part, command) for part in source.parts})
        if lacking:
            raise ValueError(f"{path} has no {', '.join(lacking)}")


def fetch_all(sources: list[Source], command: CommandLine) -> bool:
    """Fetch what has a public address, telling of each that fails; returns whether any came."""
    came = False
    for source in sources:
        if source.direct:
            try:
                fetch(source, command)
                came = True
            except DownloadError as error:
                print(f"error: {error}\n  or put it there yourself: {arrival(source, command)}", file=sys.stderr)
            except (ValueError, OSError) as error:  # OSError: the disk
                print(f"error: {error}", file=sys.stderr)
    return came


def main(argv: list[str] | None = None) -> None:
    with errors_in_one_line():
        command = tyro.cli(CommandLine, args=expand_home(argv), prog="python -m zeromamba.data.get")
        incomplete = report(command)
    with errors_in_one_line("the same command resumes where it stopped"):
        if command.download and fetch_all(incomplete, command):
            print()
            incomplete = report(command)
    needed = [source for source in incomplete if not source.optional]
    if needed:
        sys.exit(f"{len(needed)} of {len(SOURCES[command.dataset])} sources are not complete")
    if (command.data_root / "downloads").is_dir():
        print(f"everything is there; the archives in {command.data_root / 'downloads'} are no longer needed for it")


if __name__ == "__main__":
    main()
