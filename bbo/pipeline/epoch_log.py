"""Numbers of a run as it goes: lines of JSON and TensorBoard events."""

import contextlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping

from bbo import workdir as workdirs


@contextlib.contextmanager
def metrics_writer(
    workdir: pathlib.Path, *, resumed_epoch: int = 0
) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """Gives ``write(epoch, values)``: to ``metrics.jsonl`` and to TensorBoard events.

    Records of epochs after ``resumed_epoch`` are removed first: they belong to work that was
    lost and will be written again.
    """
    from tensorboardX import SummaryWriter  # with torch, if that is installed: seconds

    path = workdir / "metrics.jsonl"
    held = workdirs.read_lines(path)
    workdirs.write_lines(path, [record for record in held if record["epoch"] <= resumed_epoch])
    events = SummaryWriter(str(workdir / "tensorboard"), purge_step=resumed_epoch + 1)
    with path.open("a", encoding="utf-8") as lines, contextlib.closing(events):

        def write(epoch: int, values: Mapping[str, float]) -> None:
            lines.write(json.dumps({"epoch": epoch, **values}) + "\n")
            lines.flush()
            for name, value in values.items():
                events.add_scalar(name, value, epoch)

        yield write
