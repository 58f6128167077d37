"""Download one file: resumed where it broke off, checked, and only then put in place; archives unpacked safely."""

import gzip
import hashlib
import http.client
import os
import shutil
import socket
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

TIMEOUT = 10  # seconds without an answer or a byte
CHUNK = 1 << 20  # bytes


class DownloadError(OSError):
    """A file could not be had; what had arrived is kept beside its place for the next try."""


def download(url: str, path: Path, *, size: int | None = None, digest: str = "", timeout: float = TIMEOUT) -> None:
    """Fetch `url` into `path`, which exists only when all of it has arrived and been checked.

    What arrives is kept in `path` + ".part". A broken connection is resumed by a range request as long as each try
    brings new bytes, and by the next call otherwise. A server that has changed the file meanwhile, or that knows no
    ranges, sends it from the start (If-Range, RFC 9110 section 13.1.5).

    Args:
        url: http or https.
        size: bytes expected; None takes the server's word.
        digest: "md5:..." or "sha256:..." expected; empty checks the length alone.
        timeout: seconds.

    Raises:
        DownloadError: if the host cannot be reached, refuses, or stops sending.
        ValueError: if what arrived is not the expected file; it is removed.
    """
    part = path.with_name(path.name + ".part")
    while True:
        before = _size(part)
        if size is not None and before == size:
            break
        total = _append(url, part, before, size, resumable=bool(digest), timeout=timeout)
        now = _size(part)
        if now == total:
            break
        dropped = before > 0 and now == 0  # what had been kept was of no use; the next try is the first of a new file
        if now <= before and not dropped:
            raise DownloadError(
                f"{url}: stopped after {now:,} of {total:,} bytes, kept in {part}; the same command resumes there"
            )
    try:
        check(part, size, digest, url)
    except ValueError:
        part.unlink()
        _tag(part).unlink(missing_ok=True)
        raise
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)
    _tag(part).unlink(missing_ok=True)


def check(path: Path, size: int | None, digest: str, source: str) -> None:
    """Raise ValueError unless a file has the size and hash that are known of it."""
    found = path.stat().st_size
    if size is not None and found != size:
        raise ValueError(f"{source}: {found:,} bytes, expected {size:,}: not the published file of this name")
    if digest:
        kind, _, expected = digest.partition(":")
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
        if actual != expected:
            raise ValueError(f"{source}: {kind} {actual}, expected {expected}: not the published file of this name")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _tag(part: Path) -> Path:
    """Where the server's name for this version of the file is kept (ETag, or its date)."""
    return part.with_name(part.name + ".tag")


def _append(url: str, part: Path, have: int, size: int | None, *, resumable: bool, timeout: float) -> int:
    """One request, for what comes after the `have` bytes of `part`; returns the bytes of the whole file.

    Without a name for the server's version of the file, only a known hash (`resumable`) makes it safe to go on.
    """
    request, tag = urllib.request.Request(url, headers={"User-Agent": "zeromamba"}), _tag(part)
    if have and (tag.exists() or resumable):
        request.add_header("Range", f"bytes={have}-")
        if tag.exists():
            request.add_header("If-Range", tag.read_text())
    with _reached(url), _opened(request, timeout) as answer:
        if answer.status == 416:  # nothing comes after `have`: all is there, or more than the file has now
            if answer.headers.get("Content-Range") != f"bytes */{have}":
                part.unlink()
            return have
        resumed = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        start = have if resumed else 0
        part.parent.mkdir(parents=True, exist_ok=True)
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        tag.unlink(missing_ok=True)
        if version and not version.startswith("W/"):  # a weak name does not promise the same bytes
            tag.write_text(version)
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else size
        with (
            part.open("ab" if resumed else "wb") as file,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=None) as bar,
        ):
            broken = False
            try:
                while block := answer.read(CHUNK):
                    file.write(block)
                    bar.update(len(block))
            except (TimeoutError, http.client.HTTPException, ConnectionError) as error:
                broken = True
                if isinstance(error, http.client.IncompleteRead):
                    file.write(error.partial)
    if total is None and broken:
        raise DownloadError(f"{url}: stopped after {_size(part):,} bytes; the same command tries again")
    return _size(part) if total is None else total


@contextmanager
def _opened(request: urllib.request.Request, timeout: float) -> Iterator[Any]:
    """The server's answer, that there is nothing left to send (416) among them."""
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        answer = error
    with answer:
        yield answer


@contextmanager
def _reached(url: str) -> Iterator[None]:
    """Say in one sentence why a host gave nothing."""
    host = urlsplit(url).hostname
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        raise DownloadError(f"{url}: {host} answers {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise DownloadError(
            f"cannot reach {host} ({error.reason}): no connection from this machine, or the host is down; {url}"
        ) from error
    except (TimeoutError, socket.gaierror, ConnectionError, http.client.HTTPException) as error:
        raise DownloadError(f"cannot reach {host} ({error!r}): {url}") from error


def unpack(archive: Path, members: Mapping[str, Path]) -> list[str]:
    """Take files and folders out of a .zip or .tar.gz; each file appears in its place only when it is whole.

    Args:
        archive: nothing in it may leave the folder that it is unpacked to.
        members: names of files or folders in the archive, without "./" or a slash at the end, to their places. What
            is there already is replaced file by file; other files are left alone.

    Returns:
        The members that the archive does not have.

    Raises:
        ValueError: for a broken archive, or one with a path that leads out of it.
    """
    places = list(members.values())
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=places[0].parent) as temporary:
        try:
            _extract(archive, tuple(members), Path(temporary))
        except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{archive}: cannot be unpacked ({error}); remove it and download it again") from error
        lacking = []
        for name, place in members.items():
            if (Path(temporary) / name).exists():
                _move(Path(temporary) / name, place)
            else:
                lacking.append(name)
    return lacking


def _extract(archive: Path, names: tuple[str, ...], folder: Path) -> None:
    def wanted(member: str) -> bool:
        path = PurePosixPath(member)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{archive}: {member!r} leads out of the archive; do not use this file")
        return any(path == PurePosixPath(name) or PurePosixPath(name) in path.parents for name in names)

    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as file:
            for entry in file.infolist():
                if wanted(entry.filename):
                    file.extract(entry, folder)
    else:
        with tarfile.open(archive) as tar:
            for item in tar:
                if wanted(item.name):
                    tar.extract(item, folder, filter="data")


def _move(source: Path, place: Path) -> None:
    """Rename into place, file by file where the folder is there already."""
    if source.is_dir() and place.is_dir():
        for child in source.iterdir():
            _move(child, place / child.name)
    elif place.is_dir() != source.is_dir() and place.exists():
        raise ValueError(f"{place} is in the way: remove it")
    else:
        shutil.move(source, place)
