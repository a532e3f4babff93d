"""Numbers of a run as it goes: lines of JSON and TensorBoard events."""

import contextlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping

from tensorboardX import SummaryWriter

from bbo import workdir as workdirs


@contextlib.contextmanager
def metrics_writer(
    workdir: pathlib.Path, *, resumed_epoch: int = 0
) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """Gives ``write(epoch, values)``: to ``metrics.jsonl`` and to TensorBoard events.

    Records of epochs after ``resumed_epoch`` are removed first: they belong to work that was
    lost and will be written again.
    """
    path = workdir / "metrics.jsonl"
    kept = [record for record in read_metrics(path) if record["epoch"] <= resumed_epoch]
    workdirs.write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
    events = SummaryWriter(str(workdir / "tensorboard"), purge_step=resumed_epoch + 1)
    with path.open("a", encoding="utf-8") as lines, contextlib.closing(events):

        def write(epoch: int, values: Mapping[str, float]) -> None:
            lines.write(json.dumps({"epoch": epoch, **values}) + "\n")
            lines.flush()
            for name, value in values.items():
                events.add_scalar(name, value, epoch)

        yield write


def read_metrics(path: pathlib.Path) -> list[dict]:
    """The records of a ``metrics.jsonl``; what follows a line cut short by a crash is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
