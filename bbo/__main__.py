"""The programs, from wherever bbo is installed.

  python -m bbo experiments.run --noise=dropout      as python -m experiments.run --noise=dropout
  bbo-run --noise=dropout                            the same, as a console script
  bbo-launch local SPEC OUT                          as python -m launch.local SPEC OUT

Any other module will do as well, and finds the programs: a sweep's script may be one of yours.
"""

import functools
import importlib.util
import runpy
import sys
from collections.abc import Sequence

from bbo.settings.installed import programs_folder

LAUNCHERS = ("local", "slurm", "tpu", "k8s", "status", "sweep")


def start(module: str, arguments: Sequence[str] | None = None) -> int:
    """Becomes ``python -m module arguments``; they are those of this process by default.

    Returns:
      The exit status, unless the module ends the process.
    """
    # First: in the current folder there may be an "experiments" of somebody else's.
    sys.path.insert(0, str(programs_folder()))
    if arguments is not None:
        sys.argv[1:] = arguments
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None:
        return _mistake(f"there is no module {module!r}; name one as for python -m")
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


run = functools.partial(start, "experiments.run")
prepare = functools.partial(start, "experiments.prepare")
report = functools.partial(start, "experiments.report")
compact = functools.partial(start, "experiments.compact")
benchmark = functools.partial(start, "experiments.benchmark")
scale = functools.partial(start, "experiments.scale")


def launch() -> int:
    """``bbo-launch HOW ARGUMENTS``."""
    if len(sys.argv) < 2 or sys.argv[1] not in LAUNCHERS:
        allowed = ", ".join(LAUNCHERS)
        return _mistake(f"the launcher is {' '.join(sys.argv[1:2])!r}; it must be one of {allowed}")
    return start(f"launch.{sys.argv[1]}", sys.argv[2:])


def main() -> int:
    """``python -m bbo MODULE ARGUMENTS``."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print((__doc__ or "").strip())
        return 0 if "--help" in sys.argv[1:2] else 2
    return start(sys.argv[1], sys.argv[2:])


def _mistake(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
