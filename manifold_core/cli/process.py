"""The command line as a process: its exit status, signals, closed streams, and the other processes of torchrun."""

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from types import FrameType
from typing import TextIO

from ..distributed import process_of_torchrun
from ..errors import InputError
from ..storage.files import OF_THE_DISK
from ..training import Diverged
from .commands import dimension, reproduce, train
from .parser import make_parser

__all__ = ["main"]

OF_ONE_ALONE = {1, 130, 143}  # a disk, a signal


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 the disk is full or fails, or a worker did, 2 bad input, 3 training diverged, 130 or 143
    stopped by a signal, 141 nobody reads its output any more."""
    with _no_stream_closed():
        if hasattr(sys.stdout, "reconfigure"):  # as standard error does: a file name may have any bytes
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            try:
                return _of_process(arguments)
            finally:
                sys.stdout.flush()  # --help as well; at the exit of Python it would be too late
        except BrokenPipeError:  # by `| head`, which ends as soon as it has its lines
            _leave(sys.stdout, sys.stderr)
            return 128 + signal.SIGPIPE
        except OSError as error:  # from the last lines
            if error.errno not in OF_THE_DISK:
                raise
            print(f"manifold-core: {error}", file=sys.stderr)
            _leave(sys.stdout)
            return 1


def _leave(*streams: TextIO) -> None:
    """What Python still holds of them, and writes when it exits, goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@contextmanager
def _no_stream_closed() -> Iterator[None]:
    """If the shell closed one (``>&-``), Python has None instead of it; what is written there then goes nowhere."""
    with ExitStack() as stack:
        for stream, redirected in ((sys.stdout, redirect_stdout), (sys.stderr, redirect_stderr)):
            if stream is None:
                stack.enter_context(redirected(stack.enter_context(open(os.devnull, "w"))))
        yield


def _of_process(arguments: Sequence[str] | None) -> int:
    if not process_of_torchrun():
        return _main(arguments)
    # Only rank 0 prints and reports errors. Others exit with 0, or torchrun could kill rank 0 before it has printed;
    # but not after disk errors and signals, which concern one rank alone and leave the rest waiting.
    status = 0
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere), suppress(SystemExit):
        status = _main(arguments)
    return status if status in OF_ONE_ALONE else 0


def _main(arguments: Sequence[str] | None) -> int:
    options = make_parser().parse_args(arguments)
    resumes = options.command in (train, dimension, reproduce)
    then = "; the same command resumes from the last checkpoint" if resumes else ""
    try:
        if process_of_torchrun() is not None and options.command is not train:
            raise InputError("with torchrun the command must be train, the only one that processes can share")
        with _warnings_in_lines(), _stopped_once(for_good=arguments is None):
            status: int = options.command(options)
    except InputError as error:
        print(f"manifold-core: {error}", file=sys.stderr)
        return 2
    except Diverged as error:
        print(f"manifold-core: training diverged: {error}", file=sys.stderr)
        return 3
    except (KeyboardInterrupt, _Terminated) as signalled:
        print(f"manifold-core: stopped{then}", file=sys.stderr)
        return 143 if isinstance(signalled, _Terminated) else 130
    except OSError as error:
        if error.errno not in OF_THE_DISK and not isinstance(error, ChildProcessError):
            raise
        print(f"manifold-core: {error}{then}", file=sys.stderr)
        return 1
    return status


@contextmanager
def _warnings_in_lines() -> Iterator[None]:
    """Warnings as errors are said, without the place in our code that Python names."""
    shown = warnings.showwarning
    warnings.showwarning = _show_warning
    try:
        yield
    finally:
        warnings.showwarning = shown


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    with suppress(OSError):  # as Python's own does: a missing reader stops nothing
        print(f"manifold-core: warning: {message}", file=sys.stderr)


class _Terminated(BaseException):
    """SIGTERM."""


@contextmanager
def _stopped_once(*, for_good: bool) -> Iterator[None]:
    """Within the block SIGINT, unless it is ignored, and SIGTERM stop the command. Only the first of them does: what
    has started the command may pass on what the terminal has sent to both, and the second would fall into the saving
    of the checkpoint. Afterwards, ``for_good``, none has an effect, since the process ends; or all is as it was. Not in
    another thread than the main one, which alone gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopped = False

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        if not stopped:
            stopped = True
            raise KeyboardInterrupt if number == signal.SIGINT else _Terminated

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if before[signal.SIGINT] is not signal.default_int_handler:  # ignored, or another's
        del before[signal.SIGINT]
    if before[signal.SIGTERM] is None:  # of a program in C around Python, which Python could not put back
        del before[signal.SIGTERM]
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        stopped = True
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if for_good else handler)
