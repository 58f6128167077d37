"""Downloads from a server on this machine: resumed, checked, put in place whole or not at all; archives unpacked."""

import hashlib
import io
import socket
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from zeromamba.data.download import DownloadError, download, unpack

CONTENT = np.random.default_rng(0).bytes(300_000)
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
SHA = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


class Server:
    """Serves one file, badly if asked to."""

    def __init__(self):
        self.content = CONTENT
        self.tag = '"first"'
        self.date = ""  # Last-Modified
        self.ranges = True  # knows range requests
        self.breaks_after = []  # bytes sent before the connection ends, one entry a request
        self.says_length = True
        self.chunked = False  # says the length of each piece instead
        self.rounds_down = False  # sends a range from the first byte on
        self.status = 200
        self.asked = []  # the Range header of each request
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/file.bin"

    def answer(self, handler):
        wanted = handler.headers.get("Range")
        self.asked.append(wanted)
        if self.status != 200:
            handler.send_error(self.status)
            return
        start = 0
        version = self.tag or self.date
        if wanted and self.ranges and handler.headers.get("If-Range", version) == version:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(self.content):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(self.content)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        body = self.content[0 if self.rounds_down else start :]
        handler.send_response(206 if start else 200)
        if start:
            first, last = len(self.content) - len(body), len(self.content) - 1
            handler.send_header("Content-Range", f"bytes {first}-{last}/{len(self.content)}")
        if self.tag:
            handler.send_header("ETag", self.tag)
        if self.date:
            handler.send_header("Last-Modified", self.date)
        if self.says_length:
            handler.send_header("Content-Length", str(len(body)))
        if self.chunked:
            handler.send_header("Transfer-Encoding", "chunked")
            pieces = [*(body[i : i + 1000] for i in range(0, len(body), 1000)), b""]
            body = b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces)
        handler.end_headers()
        handler.wfile.write(body[: self.breaks_after.pop(0)] if self.breaks_after else body)


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


@pytest.mark.parametrize("digest", ["", MD5, SHA])
def test_a_file_arrives(server, tmp_path, digest):
    path = tmp_path / "new" / "file.bin"
    download(server.url, path, size=len(CONTENT), digest=digest)
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


@pytest.mark.parametrize("digest", ["", MD5])
def test_a_broken_download_goes_on_where_it_broke_off(server, tmp_path, digest):
    server.breaks_after = [100_000, 50_000]
    download(server.url, tmp_path / "file.bin", digest=digest)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]


def test_what_arrived_is_kept_for_the_next_call(server, tmp_path):
    path = tmp_path / "file.bin"
    server.breaks_after = [100_000, 0]
    with pytest.raises(DownloadError, match=r"stopped after 100,000 of 300,000 bytes, kept in .*file\.bin\.part"):
        download(server.url, path)
    assert not path.exists()
    download(server.url, path)
    assert path.read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=100000-"


@pytest.mark.parametrize("digest", ["", MD5])
def test_a_server_without_ranges_starts_again(server, tmp_path, digest):
    server.ranges, server.breaks_after = False, [100_000]
    download(server.url, tmp_path / "file.bin", digest=digest)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_server_that_sends_a_range_from_another_byte_on_makes_no_mixture(server, tmp_path):
    server.rounds_down, server.breaks_after = True, [100_000]
    download(server.url, tmp_path / "file.bin")
    assert server.asked == [None, "bytes=100000-"]
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(("tag", "resumed"), [('"second"', "bytes=150000-"), ("", None)])
def test_a_file_that_changed_meanwhile_is_not_a_mixture(server, tmp_path, tag, resumed):
    path = tmp_path / "file.bin"
    server.breaks_after = [100_000, 0]
    with pytest.raises(DownloadError):
        download(server.url, path)
    server.content, server.tag, server.breaks_after = CONTENT[::-1], tag, [150_000]
    download(server.url, path)
    assert path.read_bytes() == CONTENT[::-1]
    assert server.asked[-1] == resumed, "the earlier file's version is of no use any more"


def test_a_date_is_a_version_too(server, tmp_path):
    server.tag, server.date, server.breaks_after = "", "Mon, 01 Jan 2024 00:00:00 GMT", [100_000]
    download(server.url, tmp_path / "file.bin")
    assert server.asked == [None, "bytes=100000-"]
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("tag", ["", 'W/"weak"'])
def test_without_a_version_or_a_hash_nothing_is_resumed(server, tmp_path, tag):
    server.tag, server.breaks_after = tag, [100_000]
    download(server.url, tmp_path / "file.bin")
    assert server.asked == [None, None]
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("known", [{"digest": "md5:" + "0" * 32}, {"digest": "sha256:" + "0" * 64}, {"size": 5}])
def test_another_file_than_the_known_one_is_not_left_in_place(server, tmp_path, known):
    with pytest.raises(ValueError, match="not the published file of this name"):
        download(server.url, tmp_path / "file.bin", **known)
    assert list(tmp_path.iterdir()) == []


def test_a_whole_part_file_is_only_checked(server, tmp_path):
    """The process ended between the last byte and the check."""
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    download(server.url, tmp_path / "file.bin", size=len(CONTENT), digest=SHA)
    assert server.asked == []
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("kept", [CONTENT, CONTENT + b"more"], ids=["whole", "longer"])
def test_a_part_file_after_which_nothing_comes(server, tmp_path, kept):
    """The same, where the size is not known beforehand; a longer one is not of this file."""
    (tmp_path / "file.bin.part").write_bytes(kept)
    download(server.url, tmp_path / "file.bin", digest=SHA)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(kept)}-"] + [None] * (kept != CONTENT)


def test_a_length_that_nobody_knows(server, tmp_path):
    server.says_length = False
    download(server.url, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_part_of_unknown_length_is_not_taken_for_the_whole(server, tmp_path):
    server.says_length, server.chunked = False, True
    server.breaks_after = [1500]  # in the second of its pieces
    with pytest.raises(DownloadError, match=r"file\.bin: stopped after 1,000 bytes"):
        download(server.url, tmp_path / "file.bin")
    assert not (tmp_path / "file.bin").exists()
    download(server.url, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_refusal_is_told(server, tmp_path):
    server.status = 404
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1 answers 404"):
        download(server.url, tmp_path / "file.bin")
    assert list(tmp_path.iterdir()) == []


def test_no_connection_is_told_at_once_and_names_the_host(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/file.bin"
        start = time.monotonic()
        with pytest.raises(DownloadError, match=r"cannot reach 127\.0\.0\.1"):
            download(url, tmp_path / "file.bin")
    assert time.monotonic() - start < 5


def test_a_host_that_never_answers_is_given_up(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}/file.bin"
        with pytest.raises(DownloadError, match=r"cannot reach 127\.0\.0\.1"):
            download(url, tmp_path / "file.bin", timeout=0.2)


FILES = {"set/images/a/1.jpg": b"one", "set/images/b/2.jpg": b"two", "set/names.txt": b"a b", "other/large.bin": b"x"}


def pack(path, files):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz") as archive:
            for name, content in files.items():
                entry = tarfile.TarInfo(f"./{name}" if not name.startswith(("/", "..")) else name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return path


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("suffix", ["zip", "tgz"])
def test_only_what_is_asked_for_is_unpacked(tmp_path, suffix):
    archive, out = pack(tmp_path / f"a.{suffix}", FILES), tmp_path / "out"
    lacking = unpack(archive, {"set/images": out / "X/images", "set/names.txt": out / "n.txt", "set/no": out / "no"})
    assert tree(out) == {"X/images/a/1.jpg": b"one", "X/images/b/2.jpg": b"two", "n.txt": b"a b"}
    assert lacking == ["set/no"]


def test_unpacking_completes_a_folder_and_keeps_what_else_is_there(tmp_path):
    archive, out = pack(tmp_path / "a.zip", FILES), tmp_path / "out"
    (out / "images/a").mkdir(parents=True)
    (out / "images/a/1.jpg").write_bytes(b"broken")
    (out / "images/a/mine.jpg").write_bytes(b"mine")
    unpack(archive, {"set/images": out / "images"})
    assert tree(out / "images") == {"a/1.jpg": b"one", "a/mine.jpg": b"mine", "b/2.jpg": b"two"}


@pytest.mark.parametrize(("member", "kind"), [("set/images", "file"), ("set/names.txt", "folder")])
def test_what_is_in_the_way_of_a_member_is_named_and_kept(tmp_path, member, kind):
    archive, place = pack(tmp_path / "a.zip", FILES), tmp_path / "out/place"
    mine = place if kind == "file" else place / "mine"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"out/place is in the way: remove it"):
        unpack(archive, {member: place})
    assert mine.read_bytes() == b"mine"


@pytest.mark.parametrize("suffix", ["zip", "tgz"])
@pytest.mark.parametrize("name", ["../evil.txt", "set/../../evil.txt", "/tmp/evil.txt"])
def test_an_archive_that_leads_out_is_refused(tmp_path, suffix, name):
    archive, out = pack(tmp_path / f"a.{suffix}", {**FILES, name: b"evil"}), tmp_path / "deep/out"
    with pytest.raises(ValueError, match=r"leads out of the archive"):
        unpack(archive, {"set": out / "set"})
    assert not list(tmp_path.rglob("evil.txt"))
    assert tree(tmp_path / "deep") == {}


def test_a_link_out_of_a_tar_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        link = tarfile.TarInfo("set/link")
        link.type, link.linkname = tarfile.SYMTYPE, "../../.."
        archive.addfile(link)
    with pytest.raises(ValueError, match=r"a\.tgz: cannot be unpacked"):
        unpack(tmp_path / "a.tgz", {"set": tmp_path / "out"})


@pytest.mark.parametrize("suffix", ["zip", "tgz"])
def test_a_truncated_archive_leaves_nothing(tmp_path, suffix):
    archive = pack(tmp_path / f"a.{suffix}", {"set/big.bin": CONTENT})
    archive.write_bytes(archive.read_bytes()[:-100_000])
    with pytest.raises(ValueError, match=r"cannot be unpacked .*remove it and download it again"):
        unpack(archive, {"set": tmp_path / "out/set"})
    assert tree(tmp_path / "out") == {}
