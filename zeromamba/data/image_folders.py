"""Images in folders, one a class: which files count, and which are left over."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..messages import listing, repeated
from .tables import composed

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden or the system's own (`__MACOSX`), so that it is skipped silently."""
    return name.startswith(".") or name == "__MACOSX"


def is_image(path: Path) -> bool:
    """Whether a file counts as an image, by its name; hidden ones do not, such as macOS leaves beside each."""
    return path.suffix.lower() in SUFFIXES and not is_hidden(path.name)


def class_folders(root: Path) -> list[Path]:
    """The folders directly in `root` without hidden ones, sorted, in the same order however their names are written."""
    folders = (path for path in root.iterdir() if path.is_dir() and not is_hidden(path.name))
    return sorted(folders, key=lambda path: composed(path.name))


def read_image_folders(root: Path, least: int = 1) -> dict[str, list[str]]:
    """Class names, sorted, to the paths of their images relative to `root`, sorted.

    Raises:
        ValueError: if there are no classes, one with two folders, or as `require_images`.
    """
    folders = class_folders(root)
    files = {
        composed(folder.name): sorted(f"{folder.name}/{path.name}" for path in folder.iterdir() if is_image(path))
        for folder in folders
    }
    if not files:
        raise ValueError(f"{root} has no folders, expected one for each class")
    if twice := repeated(composed(folder.name) for folder in folders):
        raise ValueError(f"{root} has two folders {twice!r}, which differ only in their encoding: merge them")
    require_images(root, files, least)
    return files


def require_images(root: Path, files: Mapping[str, Sequence[str]], least: int) -> None:
    """Raise ValueError unless each class, of the images `files` in its folder under `root`, has at least so many."""
    few = [f"{name} ({len(paths)})" for name, paths in files.items() if len(paths) < least]
    if few:
        raise ValueError(
            f"{root}: fewer than {least} images ({' '.join(SUFFIXES)}) directly in {len(few)} of {len(files)} class "
            f"folders that need them: {listing(few)}; add images or remove the folder"
        )


def unused_files_note(root: Path, files: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Which files under `root` are none of the images `files`, but for hidden ones."""
    used = {root / path for paths in files.values() for path in paths}
    below = [path for folder in class_folders(root) for path in folder.rglob("*")]
    why: Counter[str] = Counter()
    for path in (*root.iterdir(), *below):
        parts = path.relative_to(root).parts
        if path in used or not path.is_file() or any(map(is_hidden, parts)):
            continue
        if len(parts) == 2:
            why[f"of types other than {' '.join(SUFFIXES)}"] += 1
        else:
            why["in no class folder" if len(parts) == 1 else "in subfolders of a class"] += 1
    listed = ", ".join(f"{count} {reason}" for reason, count in why.items())
    return (f"{root}: {why.total()} files are not used: {listed}",) if why else ()
