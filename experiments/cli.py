"""What the programs share: flags in, one clear line and an exit status out."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import flags

from bbo.types import RunError, UsageError

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells give it."""
HELP = ("-h", "-help", "--help", "-helpfull", "--helpfull")


def run_program(
    main: Callable[[flags.FlagValues], int | None],
    flag_values: flags.FlagValues,
    argv: Sequence[str],
) -> int:
    """Parses ``argv`` and calls ``main(flag_values)``.

    The flags are the program's own, not absl's global ones: several programs, or one several
    times, run in one process without seeing each other's values.

    Args:
      main: the program. The docstring of its module opens the help text.
      flag_values: where the flags are defined; values of an earlier parse are forgotten.
      argv: the program's name and its arguments, as ``sys.argv``.

    Returns:
      The exit status: what ``main`` returns (None is 0), 1 if a run failed, 2 after a mistake of
      the caller, 130 after an interrupt. The last three print one line on stderr.
    """
    try:
        if any(argument in HELP for argument in argv[1:]):
            opening = (sys.modules[main.__module__].__doc__ or "").strip()
            print(opening, flag_values.get_help(include_special_flags=False), sep="\n", flush=True)
            return 0
        _parse(flag_values, argv)
        return main(flag_values) or 0
    except UsageError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except RunError as error:
        print("failed:", error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # The reader has left, as in `... --help | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parse(flag_values: flags.FlagValues, argv: Sequence[str]) -> None:
    for name in flag_values:
        flag_values[name].unparse()
    try:
        stray = flag_values(list(argv))[1:]
    except (flags.Error, ValueError) as error:  # absl raises ValueError for --noname=value
        raise UsageError(str(error)) from None
    if stray:
        raise UsageError(f"unexpected argument {stray[0]!r}; settings are --name=value")


def leave(status: int) -> NoReturn:
    """Ends the process; after an interrupt at once, as threads that compile do not outlive it."""
    if status == INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
