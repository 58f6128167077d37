"""How every command ends early: in one line, where the user, the input, the disk or the machine ends it."""

import errno
import io
import os
import re
import signal
import subprocess
import sys
from unittest.mock import Mock

import pytest
import torch
from torch._utils import ExceptionWrapper

from zeromamba import files
from zeromamba.entry import errors_in_one_line, expand_home


def test_a_tilde_within_a_name_stays_as_it_is(monkeypatch):
    monkeypatch.setenv("HOME", "/home/a")
    assert expand_home(["~/b", "--data-root=~/b"]) == ["/home/a/b", "--data-root=/home/a/b"]
    assert expand_home(["a/~/b", "--out=a/~/b"]) == ["a/~/b", "--out=a/~/b"]


def test_of_an_error_in_a_process_that_reads_images_the_message_alone_is_told():
    try:
        raise ValueError("a.png: cannot be read as an image (truncated)")
    except ValueError:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")  # what PyTorch passes on
    with (
        pytest.raises(SystemExit, match=r"^error: a\.png: cannot be read as an image \(truncated\)$"),
        errors_in_one_line(),
    ):
        wrapped.reraise()


def test_too_little_memory_of_the_machine_is_told_with_what_needs_less():
    with pytest.raises(SystemExit, match=r"(?s)^error: .*can't allocate memory.*\ntake less$"):  # noqa: SIM117
        with errors_in_one_line(memory="take less"):
            torch.empty(1 << 50)


def test_a_job_that_is_ended_from_outside_says_how_to_go_on():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match=r"^interrupted: x goes on$"), errors_in_one_line("x goes on"):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_reader_that_has_enough_ends_a_command_without_a_word():
    """As `| head` does."""
    for printed in ("while True: print('y')", "print('y'), time.sleep(1)"):  # again and again, or at the end
        code = f"import time\nfrom zeromamba.entry import errors_in_one_line\nwith errors_in_one_line():\n {printed}"
        buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": buffered}
        with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
            process.stdout.close()
            assert (process.stderr.read(), process.wait()) == ("", 1)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_command_whose_streams_are_closed_does_its_work(closed, tmp_path):
    """As of a daemon."""
    code = (
        "import os, sys, tqdm\nfrom pathlib import Path\nfrom zeromamba.entry import errors_in_one_line\n"
        "with errors_in_one_line():\n"
        " list(tqdm.tqdm([1], disable=None)), print('y'), print('z', file=sys.stderr)\n"
        f" Path({str(tmp_path / 'done')!r}).open('w').write(str(len('done')))\n"
        " os.write(2, b'an error')"
    )
    subprocess.run(["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, code], check=True)
    assert (tmp_path / "done").read_text() == "4"


def worker_error(name):
    """What PyTorch raises when a process that reads images has ended."""
    error = RuntimeError("DataLoader worker (pid(s) 3) exited unexpectedly")
    error.__cause__ = RuntimeError(f"DataLoader worker (pid 3) is killed by signal: {name}. ")
    return error


FULL = "unable to allocate shared memory(shm) for file </torch_1_2>: No space left on device (28)"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError(f"Caught RuntimeError in DataLoader worker process 0.\n  ...\nRuntimeError: {FULL}"), FULL),
        (worker_error("Killed"), "DataLoader worker (pid 3) is killed by signal: Killed."),
        (worker_error("Bus error"), "DataLoader worker (pid 3) is killed by signal: Bus error."),
    ],
)
def test_processes_that_read_images_in_too_little_memory_end_in_one_line_with_what_needs_less(error, told):
    line = rf"^error: {re.escape(told)}\nFewer processes .* need less memory, .*; goes on$"
    with pytest.raises(SystemExit, match=line), errors_in_one_line("goes on"):
        raise error


def test_a_crash_of_a_process_that_reads_images_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="exited unexpectedly"), errors_in_one_line():
        raise worker_error("Segmentation fault")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError("no room"), "error: no room\ntake less; goes on"),
        (MemoryError(), "error: out of memory\ntake less; goes on"),
        (torch.OutOfMemoryError("too large"), "error: too large\ntake less; goes on"),
        (RuntimeError("DefaultCPUAllocator: no room"), "error: DefaultCPUAllocator: no room\ntake less; goes on"),
        (ImportError("timm is missing"), "error: timm is missing; goes on"),
        (FloatingPointError("the loss is nan"), "error: the loss is nan"),  # and would be again
        (KeyboardInterrupt(), "interrupted: goes on"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_goes_on_and_what_helps_is_told_where_it_does(error, told):
    with pytest.raises(SystemExit) as end, errors_in_one_line("goes on", memory="take less"):
        raise error
    assert end.value.code == told


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")  # as a file's `write` says it
    monkeypatch.setattr(files.os, "fsync", Mock(side_effect=full))
    with pytest.raises(SystemExit, match=rf"^error: .*No space left on device: '{tmp_path}/state\.pt'; goes on$"):  # noqa: SIM117
        with errors_in_one_line("goes on"):
            files.write_bytes(tmp_path / "state.pt", b"")


@pytest.mark.parametrize("where", ["", "Caught RuntimeError in DataLoader worker process 0.\nRuntimeError: "])
def test_a_mistake_in_the_program_keeps_its_traceback(where):
    with pytest.raises(RuntimeError, match="shapes"), errors_in_one_line():
        raise RuntimeError(f"{where}shapes do not fit")


def test_a_name_that_is_no_text_is_escaped_in_a_file(tmp_path):
    files.write_text(tmp_path / "table.txt", "b\udcfcrd")
    assert (tmp_path / "table.txt").read_text() == "b\\udcfcrd"


def test_a_name_that_the_terminal_cannot_write_is_escaped(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="utf-8", write_through=True))
    with errors_in_one_line():
        print("caf\udce9.webp")
    assert written.getvalue() == b"caf\\udce9.webp\n"
