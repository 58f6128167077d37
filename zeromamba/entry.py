"""What every command does with its arguments, and with what ends it early: one line instead of a traceback."""

import io
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .memory import lacks_memory


def expand_home(argv: list[str] | None) -> list[str]:
    """Arguments, by default this process's, with `~` as the home folder: shells leave it as it is in `--out=~/runs`."""
    return [
        re.sub(r"^(--[\w-]+=)?(~.*)", lambda found: (found[1] or "") + os.path.expanduser(found[2]), argument)
        for argument in (sys.argv[1:] if argv is None else argv)
    ]


@contextmanager
def errors_in_one_line(
    goes_on: str = "", *, memory: str = "--device cpu uses the machine's main memory"
) -> Iterator[None]:
    """Turn what the user, the input, the disk or the training can cause into one line and exit status 1.

    Within, SIGTERM interrupts as Ctrl-C does, and standard streams can be written to even if they were closed.

    Args:
        goes_on: what goes on where this ends, told after Ctrl-C or SIGTERM and behind an error's message.
        memory: what needs less of the device's memory, on a line of its own where that was too small.

    Raises:
        SystemExit: for these; whatever else is raised is a mistake in the program and keeps its traceback.
    """
    after = f"; {goes_on}" if goes_on else ""
    # Slurm, Docker and `timeout` end a job so; PyTorch's processes that read images have a handler of their own
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _open_streams()
        yield
        sys.stdout.flush()  # which Python would do too late
    except KeyboardInterrupt:
        sys.exit(f"interrupted: {goes_on}" if goes_on else "interrupted")
    except BrokenPipeError:  # nothing reads on, as behind `| head`, and what is still to be printed goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(goes_on or 1)
    except FloatingPointError as error:  # training diverged, and would again
        sys.exit(f"error: {error}")
    # OSError: a file is missing or broken, or the disk full; ImportError: an extra
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {_told(error)}{after}")
    except (RuntimeError, MemoryError) as error:
        text = _told(error)
        if lacks_memory(error):
            sys.exit(f"error: {text or 'out of memory'}\n{memory}{after}")
        ended = str(error.__cause__ or text).strip()  # why a process that read images is no more
        if re.search(r"shared memory\(shm\)|killed by signal: (Killed|Bus error)", ended):
            fewer = "Fewer processes that read images (--workers) need less memory, and a smaller --shm-size in Docker"
            sys.exit(f"error: {ended}\n{fewer}{after}")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _open_streams() -> None:
    """Let standard streams that are closed, as a daemon's are, lead nowhere, and the others write any file's name."""
    while (nowhere := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # or a file of ours would become what libraries write their errors to
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.dup(nowhere), "w"))
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name may be no text in the terminal's encoding
    os.close(nowhere)


def _told(error: Exception) -> str:
    """Its message, which in a process that reads images PyTorch makes the end of a whole traceback."""
    return str(error).rpartition(f"\n{type(error).__name__}: ")[2].strip()
