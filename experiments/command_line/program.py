"""What the programs share: flags in, one clear line and an exit status out."""

import contextlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from absl import flags

from bbo.files import FULL
from bbo.settings.installed import with_names_here
from bbo.types import Interrupted, Preempted, RunError, UsageError

PREEMPTED = 75
"""Exit status of a run that was told to stop and has saved: EX_TEMPFAIL, try again later."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells give it."""
AGAIN = "interrupted; run the same command again"
HELP = ("-h", "-help", "--help", "-helpfull", "--helpfull")


def run_program(
    main: Callable[..., int | None],
    flag_values: flags.FlagValues,
    argv: Sequence[str],
    *,
    positional: Sequence[str] = (),
) -> int:
    """Parses ``argv`` and calls ``main(flag_values, *positional arguments)``.

    The flags are the program's own, not absl's global ones: several programs, or one several
    times, run in one process without seeing each other's values.

    Args:
      main: the program. The docstring of its module opens the help text.
      flag_values: where the flags are defined; values of an earlier parse are forgotten.
      argv: the program's name and its arguments, as ``sys.argv``.
      positional: names of the arguments that are no flags, all of them required.

    Returns:
      The exit status: what ``main`` returns (None is 0), 1 if a run failed, 2 after a mistake of
      the caller, 75 if it was told to stop, 130 after Ctrl-C. All but ``main``'s own print
      one line on stderr.
    """
    open_streams()
    try:
        if any(argument in HELP for argument in argv[1:]):
            opening = (sys.modules[main.__module__].__doc__ or "").strip()
            opening = with_names_here(opening)
            print(opening, flag_values.get_help(include_special_flags=False), sep="\n", flush=True)
            return 0
        return main(flag_values, *parse(flag_values, argv, positional)) or 0
    except UsageError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except RunError as error:
        print("failed:", error, file=sys.stderr)
        return 1
    except Interrupted:
        print("interrupted; saved, the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    except Preempted:
        print("told to stop; saved, the same command goes on from there", file=sys.stderr)
        return PREEMPTED
    except KeyboardInterrupt:
        print(AGAIN, file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # The reader has left, as in `... --help | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in FULL:
            raise
        print(f"failed: {error.strerror} ({error.filename or 'while writing'})", file=sys.stderr)
        return 1


def parse(
    flag_values: flags.FlagValues, argv: Sequence[str], positional: Sequence[str] = ()
) -> list[str]:
    """Sets the flags and gives the arguments that are none; see ``run_program``.

    Raises:
      UsageError: an unknown flag, a wrong value, or too few or too many other arguments.
    """
    for name in flag_values:
        flag_values[name].unparse()
    for argument in argv[1:]:
        if not is_plain(argument):
            raise UsageError(f"{argument!r} is not UTF-8; give names that are")
    try:
        others = flag_values(list(argv))[1:]
    except (flags.Error, ValueError) as error:  # absl raises ValueError for --noname=value
        raise UsageError(str(error)) from None
    if len(others) < len(positional):
        missing = " ".join(positional[len(others) :])
        raise UsageError(f"{missing} is missing; --help tells what it is")
    if stray := others[len(positional) :]:
        raise UsageError(f"unexpected argument {stray[0]!r}; settings are --name=value")
    return others


def is_plain(text: str) -> bool:
    """Whether a text can be written down, and be an argument of a command.

    >>> is_plain("números"), is_plain(os.fsdecode(bytes([255]))), is_plain(chr(0))
    (True, False, False)
    """
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def open_streams() -> None:
    """Gives the process the streams that it was started without, and lets them take any text.

    Without them the next file that is opened would be what libraries write their errors to.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", closefd=False))
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):  # not so in tests
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def ends_at_once(distributed: bool) -> Iterator[None]:
    """Within this context, what goes wrong in one process of many ends that process at once.

    Else it would wait minutes for the others, which wait for it.
    """
    try:
        yield
    except (Preempted, UsageError):  # of all processes
        raise
    except BaseException as error:
        if not distributed:
            raise
        if isinstance(error, RunError):
            print("failed:", error, file=sys.stderr)
        else:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def leave(status: int) -> NoReturn:
    """Ends the process; after an interrupt at once, as threads that compile do not outlive it."""
    if status == INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def start(
    main: Callable[..., int | None],
    flag_values: flags.FlagValues,
    *,
    positional: Sequence[str] = (),
) -> NoReturn:
    """Runs a program on the arguments of this process, and ends it: see ``run_program``."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # An exception would come out of imports and destructors as whatever these make of it.
        signal.signal(signal.SIGINT, _interrupted)
    leave(run_program(main, flag_values, sys.argv, positional=positional))


def _interrupted(number: int, frame: object) -> NoReturn:
    del number, frame
    os.write(2, f"{AGAIN}\n".encode())  # print may be what was interrupted
    os._exit(INTERRUPTED)
