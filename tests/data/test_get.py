"""The command that says what a data folder lacks, and fetches it."""

import io
import pickle
import re
import tarfile
import zipfile
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from unittest.mock import Mock

import numpy as np
import pytest
import tyro

from zeromamba import embeddings
from zeromamba.data import BENCHMARKS, get, load_dataset
from zeromamba.data.sources import SOURCES, human, where_to_get
from zeromamba.settings import CHECKPOINTS, Settings


def run(*arguments):
    """The command's exit status: 0, or a sentence."""
    try:
        get.main([*map(str, arguments)])
    except SystemExit as end:
        return end.code
    return 0


@pytest.mark.parametrize("name", SOURCES)
def test_every_missing_file_is_named_with_its_origin_and_size(tmp_path, capsys, name):
    assert "not complete" in run(name, "--data-root", tmp_path / "data", "--checkpoints", tmp_path / "weights")
    printed = capsys.readouterr().out
    for source in SOURCES[name]:
        folder = tmp_path / ("data" if source.folder == "data" else "weights")
        for part in source.parts:
            assert f"--  {folder / part.path}  (missing)" in printed
        assert source.origin.format(root=tmp_path / "data") in printed
        assert source.weight in printed
    assert not (tmp_path / "data").exists(), "looking changes nothing"


def test_what_is_fetched_and_made_lies_where_training_looks():
    assert get.CommandLine.data_root == embeddings.CommandLine.data_root == Settings.data_root
    assert get.CommandLine.checkpoints == CHECKPOINTS


def test_the_command_that_makes_word_vectors_can_be_pasted(tmp_path, capsys):
    """From any folder, by what `get` prints and by what a loader that misses the file does."""
    run("imagenet", "--data-root", tmp_path)
    for text in capsys.readouterr().out, where_to_get("imagenet", tmp_path):
        (found,) = re.findall(r"from python -m zeromamba\.embeddings (.*)", text)
        command = tyro.cli(embeddings.CommandLine, args=found.split())
        assert (command.dataset, command.data_root) == ("imagenet", tmp_path)
        assert command.vectors.relative_to(tmp_path).as_posix() in {
            part.path for source in SOURCES["imagenet"] for part in source.parts
        }


@pytest.mark.parametrize("name", SOURCES)
def test_the_table_is_whole(name):
    for source in SOURCES[name]:
        assert source.origin.startswith("http") == source.direct
        assert source.weight or not source.direct
        kind, _, value = source.digest.partition(":")
        assert (kind, len(value)) in {("", 0), ("md5", 32), ("sha256", 64)}
        assert all(part.member for part in source.parts) or len(source.parts) == 1
        for part in source.parts:
            if part.images:
                assert part.path.endswith("/")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_table_has_what_the_loader_reads(name):
    row = BENCHMARKS[name]
    parts = [part for source in SOURCES[name] for part in source.parts]
    paths = [part.path for part in parts]
    assert {f"xlsa17/data/{row.title}/{file}" for file in ("res101.mat", "att_splits.mat")} < set(paths)
    assert row.word_vectors in paths
    assert [part.images for part in parts if part.images] == [row.images]
    assert [(part.path, part.vectors) for part in parts if part.vectors] == [(row.word_vectors, row.attributes)]
    assert any(path.startswith(f"{row.root}/") for path in paths)
    assert any(path.endswith(f"/{row.attribute_file}") for path in paths)
    assert f"python -m zeromamba.data.get {name} --data-root here" in where_to_get(name, "here")


@pytest.fixture
def site(cub, tmp_path, monkeypatch):
    """A site with a small CUB as the real ones pack it, and the table pointing there."""
    cub.write()
    (cub.root / "CUB/attributes.txt").write_text("".join(f"{i + 1} has_size::{i}\n" for i in range(5)))
    (cub.splits / "valclasses1.txt").write_text("002.Wren\n009.Jay\n")
    folder = tmp_path / "site"
    folder.mkdir()
    with tarfile.open(folder / "CUB_200_2011.tgz", "w:gz") as archive:
        archive.add(cub.root / "CUB/CUB_200_2011", "CUB_200_2011")
        archive.add(cub.root / "CUB/attributes.txt", "attributes.txt")
        archive.addfile(tarfile.TarInfo("CUB_200_2011/segmentations"), io.BytesIO())
    with zipfile.ZipFile(folder / "xlsa17.zip", "w") as archive:
        for path in cub.splits.iterdir():
            archive.write(path, f"xlsa17/data/CUB/{path.name}")
            archive.writestr(f"xlsa17/data/APY/{path.name}", b"not wanted")
    (folder / "CUB_attribute.pkl").write_bytes(cub.pickle.read_bytes())
    (folder / "vssm_small_0229_ckpt_epoch_222.pth").write_bytes(b"weights")

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    here = f"http://127.0.0.1:{http.server_port}"
    photographs, *others = SOURCES["cub"]
    parts = (replace(photographs.parts[0], images=len(cub.files)), photographs.parts[1])
    sources = [replace(photographs, parts=parts), *others]
    served = [replace(s, origin=f"{here}/{s.filename}", size=None, digest="", roughly="small") for s in sources]
    monkeypatch.setitem(SOURCES, "cub", tuple(served))
    yield folder
    http.shutdown()
    thread.join()
    http.server_close()


def test_what_it_fetches_is_what_the_loader_reads(site, tmp_path, capsys, cub):
    new = tmp_path / "new"
    arguments = ("cub", "--data-root", new, "--checkpoints", tmp_path / "weights")
    assert run(*arguments, "--download") == 0, capsys.readouterr().err
    assert run(*arguments) == 0
    assert "--  " not in capsys.readouterr().out.split("downloads", 1)[-1]
    data = load_dataset("cub", new, seed=0)
    assert data.labels.tolist() == cub.load().labels.tolist()
    assert data.attribute_names[0] == "has_size::0"
    assert "valclasses1" in data.val_source
    assert not (new / "xlsa17/data/APY").exists()
    assert (tmp_path / "weights/vssm_small_0229_ckpt_epoch_222.pth").read_bytes() == b"weights"


def test_photographs_are_counted_and_nothing_else_is(site, cub, capsys):
    arguments = ("cub", "--data-root", cub.root, "--checkpoints", site)
    photograph = cub.photographs / cub.files[0]
    photograph = photograph.rename(photograph.with_suffix(".JPEG"))
    assert run(*arguments) == 0
    photograph.rename(photograph.with_suffix(".db"))
    assert run(*arguments) == "1 of 4 sources are not complete"
    assert f"--  {cub.photographs}  ({len(cub.files) - 1} of {len(cub.files)} images)" in capsys.readouterr().out


def test_a_file_of_another_size_than_the_published_one_is_not_complete(tmp_path, capsys):
    file = tmp_path / "vssm_small_0229_ckpt_epoch_222.pth"
    for size, state in (200_732_813, "--"), (200_732_814, "ok"), (200_732_815, "--"):
        with file.open("wb") as hollow:
            hollow.truncate(size)
        run("vmamba", "--checkpoints", tmp_path)
        assert f"{state}  {file}  (there" in capsys.readouterr().out


def test_only_what_is_missing_is_fetched_and_errors_stop_nothing_else(site, tmp_path, capsys):
    new = tmp_path / "new"
    (new / "w2v").mkdir(parents=True)
    (new / "w2v/CUB_attribute.pkl").write_bytes(b"my own")
    (site / "xlsa17.zip").unlink()
    message = run("cub", "--data-root", new, "--checkpoints", tmp_path, "--download")
    assert message == "1 of 4 sources are not complete"
    printed = capsys.readouterr()
    assert "xlsa17.zip: 127.0.0.1 answers 404" in printed.err
    assert (new / "CUB/CUB_200_2011/images").is_dir()
    assert (new / "w2v/CUB_attribute.pkl").read_bytes() == b"my own"


def test_of_what_arrives_size_and_hash_are_compared_and_an_archive_has_all_its_members(
    site, tmp_path, capsys, monkeypatch
):
    photographs, split, vectors, weights = SOURCES["cub"]
    more = get.Part("xlsa17/data/CUB/more.txt", "xlsa17/data/CUB/more.txt")
    split = replace(split, parts=(*split.parts, more))
    known = replace(vectors, digest="sha256:" + "0" * 64), replace(weights, size=len(b"weights") + 1)
    monkeypatch.setitem(SOURCES, "cub", (split, *known, photographs))
    new = tmp_path / "new"
    message = run("cub", "--data-root", new, "--checkpoints", new, "--download")
    assert message == "3 of 4 sources are not complete", "errors stop nothing else"
    told = capsys.readouterr().err
    assert "xlsa17.zip has no xlsa17/data/CUB/more.txt" in told
    for file, problem in (
        ("CUB_attribute.pkl", "sha256 "),
        ("vssm_small_0229_ckpt_epoch_222.pth", "7 bytes, expected 8"),
    ):
        assert f"/{file}: {problem}" in told
        assert not list(new.rglob(f"{file}*"))


def test_only_public_addresses_are_fetched_and_optional_sources_may_be_missing(tmp_path, capsys, monkeypatch):
    fetched = Mock(side_effect=get.DownloadError("offline"))
    monkeypatch.setattr(get, "download", fetched)
    arguments = ("imagenet", "--data-root", tmp_path, "--checkpoints", tmp_path, "--download")
    whole = SOURCES["imagenet"]
    assert run(*arguments) == f"{sum(not source.optional for source in whole)} of {len(whole)} sources are not complete"
    assert [call.args[0] for call in fetched.call_args_list] == [s.origin for s in whole if s.origin.startswith("http")]
    assert capsys.readouterr().err.count("error: ") == len(fetched.call_args_list)
    monkeypatch.setitem(SOURCES, "imagenet", tuple(source for source in whole if source.optional))
    assert run(*arguments) == 0
    assert "(6.3 GB, optional, not by this command)" in capsys.readouterr().out
    assert "ImageNet/val/ (optional)" in where_to_get("imagenet", tmp_path)


def test_an_archive_that_the_user_put_there_is_checked_and_unpacked(site, tmp_path, capsys):
    new = tmp_path / "new"
    (new / "downloads").mkdir(parents=True)
    (site / "xlsa17.zip").rename(new / "downloads/xlsa17.zip")
    assert run("cub", "--data-root", new, "--checkpoints", tmp_path, "--download") == 0
    xlsa17 = replace(SOURCES["cub"][1], digest="md5:" + "0" * 32)
    with pytest.raises(ValueError, match=r"xlsa17\.zip: md5 .*not the published file"):
        get.fetch(xlsa17, get.CommandLine("cub", data_root=new))
    assert (new / "downloads/xlsa17.zip").exists()


def test_without_a_connection_each_host_is_named_and_nothing_is_left(tmp_path, capsys, monkeypatch):
    offline = [replace(s, origin=f"http://127.0.0.1:9/{s.filename}") for s in SOURCES["cub"]]
    monkeypatch.setitem(SOURCES, "cub", tuple(offline))
    assert "4 of 4" in run("cub", "--data-root", tmp_path / "data", "--checkpoints", tmp_path / "c", "--download")
    told = capsys.readouterr().err
    assert told.count("cannot reach 127.0.0.1") == 4
    assert f"put it there yourself: {tmp_path / 'data/downloads/CUB_200_2011.tgz'}" in told
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(get, "download", Mock(side_effect=KeyboardInterrupt))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "the same command resumes" in run("cub", "--data-root=~/data", "--checkpoints", tmp_path, "--download")
    assert f"--  {tmp_path / 'data'}" in capsys.readouterr().out, "and ~ is a home folder"


def test_a_file_of_the_user_s_own_is_never_replaced(tmp_path, capsys):
    mine = tmp_path / "w2v/CUB_attribute.pkl"
    mine.parent.mkdir()
    mine.write_bytes(b"my own")
    (source,) = [s for s in SOURCES["cub"] if s.parts[0].path == "w2v/CUB_attribute.pkl"]
    with pytest.raises(ValueError, match="is there, but is not the published file"):
        get.fetch(source, get.CommandLine("cub", data_root=tmp_path))
    assert mine.read_bytes() == b"my own"


def test_word_vectors_that_were_made_anew_count_as_there(tmp_path, capsys):
    """`zeromamba.embeddings cub --overwrite` writes a file of another size than the published one."""
    path = tmp_path / "w2v/CUB_attribute.pkl"
    path.parent.mkdir()
    for array, told in (
        (np.ones((312, 300)), f"ok  {path}  (there, but not the published file)"),
        (np.ones((85, 300)), f"--  {path}  (there, but unusable: {path}: word vectors of shape (85, 300), exp"),
    ):
        path.write_bytes(pickle.dumps(array, protocol=4))
        run("cub", "--data-root", tmp_path, "--checkpoints", tmp_path)
        assert told in capsys.readouterr().out
    path.write_bytes(path.read_bytes()[:1000])
    run("cub", "--data-root", tmp_path, "--checkpoints", tmp_path)
    assert f"--  {path}  (there, but unusable: {path}: not a readable pickle" in capsys.readouterr().out


def test_either_file_of_class_names_will_do(tmp_path, capsys):
    (tmp_path / "ImageNet").mkdir()
    (tmp_path / "ImageNet/words.txt").write_text("n01440764\ttench\n")
    run("imagenet", "--data-root", tmp_path)
    assert f"ok  {tmp_path / 'ImageNet/words.txt'}" in capsys.readouterr().out


def test_sizes_for_people():
    sizes = {5: "5 B", 1000: "1 kB", 204_161: "204 kB", 999_700: "1 MB", 1_150_585_339: "1.15 GB"}
    assert [human(n) for n in sizes] == [*sizes.values()]
