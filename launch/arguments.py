"""What launchers ask of the arguments that they are given."""

import os
import pathlib

from absl import flags

from bbo.types import UsageError


def require_given(values: flags.FlagValues, *names: str) -> None:
    """Raises UsageError unless all these flags have a value."""
    if missing := [f"--{name}" for name in names if not values[name].value]:
        raise UsageError(f"{' and '.join(missing)} must be given; --help tells what it is")


def shared_folder(out: str) -> pathlib.Path:
    """The absolute path of a folder that other machines must see under the same path.

    Raises:
      UsageError: it is an address such as ``gs://``, not a path.
    """
    if "://" in out:
        raise UsageError(
            f"OUT is {out}; it must be a folder: mount the bucket at the same path on all "
            "machines (gcsfuse), or use a Filestore share, and name the path"
        )
    return pathlib.Path(os.path.abspath(out))
