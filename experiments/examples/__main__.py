"""``python -m experiments.examples NAME PATH``: the example of that name, exported to a path.

Exporting, and Equinox, need ``pip install -e '.[export]'``.
"""

import importlib
import pathlib
import sys

NAMES = ("linen", "nnx", "equinox", "plain")


def main(arguments: list[str]) -> int:
    """The exit status."""
    if len(arguments) != 2 or arguments[0] not in NAMES:
        print(f"say python -m experiments.examples {'|'.join(NAMES)} small.stablehlo")
        return 2
    importlib.import_module(f"experiments.examples.{arguments[0]}").main(pathlib.Path(arguments[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
