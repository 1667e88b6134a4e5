"""The entry point of `wb`: check the installation, run a command, turn every outcome into an exit code.

Exit codes: 0 done, 1 failed while running, 2 bad input or usage, 130 interrupted, 143 told to stop (SIGTERM): saved
first where `--resume` can go on. Errors of the workbench come out in the house form on stderr; anything else is a
defect of ours and keeps its traceback.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import click

from cli.install_guard import install_complaint
from sae_train.run.heartbeat import beating, doing
from sae_train.run.notes import LOGGER
from sae_train.run.stopping import EXIT_TERMINATED, Terminated, terminations_heard

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def main(args: Sequence[str] | None = None) -> int:
    """Run `wb` and return its exit code.

    Args:
        args: The words after `wb`; those of the process when None.
    """
    print_anything()
    complaint = install_complaint()
    if complaint is not None:
        return _fail(complaint, EXIT_USAGE)
    with interrupts_heard(), terminations_heard(), notes_shown():
        code = exit_code_of(lambda: _invoke(args))
    return _left(code)


def _left(code: int) -> int:
    """Return the exit code; where this process was one of several (torchrun), end it here and now.

    An interpreter that winds down after sums over processes aborted now and then ("terminate called without an active
    exception", SIGABRT): everything was done and saved, and the launcher called the run a failure.
    """
    processes = sys.modules.get("sae_train.run.processes")  # not imported, it was not
    if processes is not None and processes.was_one_of_several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def print_anything() -> None:
    """Have the streams write what their encoding does not hold as an escape: no work is lost by printing about it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def interrupts_heard() -> Generator[None]:
    """Have an interrupt come again that fell into a destructor or a callback of a weak reference: Python drops it."""
    told = sys.unraisablehook

    def again(lost: sys.UnraisableHookArgs) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            return told(lost)
        ident = threading.main_thread().ident or 0
        number = signal.SIGTERM if issubclass(lost.exc_type, Terminated) else signal.SIGINT
        timer = threading.Timer(0.01, signal.pthread_kill, (ident, number))  # outside the code that drops it
        timer.daemon = True
        return timer.start()

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = told


class _Stderr(logging.Handler):
    """Writes notes to stderr as it is when a note comes."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one note."""
        click.echo(record.getMessage(), err=True)


@contextmanager
def notes_shown() -> Generator[None]:
    """Write the notes of the library to stderr, beside the result."""
    logger, handler = logging.getLogger(LOGGER), _Stderr()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def exit_code_of(action: Callable[[], int]) -> int:
    """Run `action`; render what the user can act on to stderr and return the exit code that belongs to it."""
    from cli.error_form import usage_as_input_error
    from sae_train.errors import InputError, WorkbenchError

    try:
        return action()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return EXIT_USAGE
    except click.UsageError as error:
        return _fail(str(usage_as_input_error(error)), EXIT_USAGE)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except WorkbenchError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        told = error if isinstance(error, Terminated) else error.__cause__  # click turns interrupts into its own
        if isinstance(told, Terminated):
            saved = "; what is done so far is saved: the same command with --resume goes on" if told.is_saved else ""
            return _fail(f"told to stop (SIGTERM){saved}", EXIT_TERMINATED)
        return _fail("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader (`| head`) left; it has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_FAILED
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
            raise
        got = f"{str(error.filename)[:60]}…: {error.strerror}"
        return _fail(str(InputError("cannot use a path", got=got, expected="a shorter one")), EXIT_USAGE)


def _invoke(args: Sequence[str] | None) -> int:
    from cli.group import wb

    words = sys.argv[1:] if args is None else args
    with beating(), doing(f"wb {words[0]}" if words else "wb"):
        code: object = wb.main(args=args, prog_name="wb", standalone_mode=False)
    sys.stdout.flush()  # a closed pipe shows here, not in the interpreter's shutdown
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    click.echo(f"Error: {message}", err=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
