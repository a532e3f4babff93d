"""Numbers of a run as it goes: lines of JSON and TensorBoard events."""

import contextlib
import errno
import pathlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping

from tqdm import tqdm

from bbo.files import read_lines, sealed, set_aside, write_lines
from bbo.pipeline.progress import Progress, steps_done
from bbo.pipeline.run import Run
from bbo.training.bar import progress_bar
from bbo.training.devices import is_first_process


@contextlib.contextmanager
def metrics_writer(
    workdir: pathlib.Path, *, resumed_epoch: int = 0
) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """Gives ``write(epoch, values)``: to ``metrics.jsonl`` and to TensorBoard events.

    Records of epochs after ``resumed_epoch`` are removed first: they belong to work that was
    lost and will be written again. If some before it are missing, that is told, and what there is
    of the file is kept beside.
    """
    from tensorboardX import SummaryWriter  # with torch, if that is installed: seconds

    path = workdir / "metrics.jsonl"
    whole = {record.get("epoch"): record for record in read_lines(path)}
    held = [whole[epoch] for epoch in range(1, resumed_epoch + 1) if epoch in whole]
    if lost := resumed_epoch - len(held):
        kept = f"; what is left is in {set_aside(path).name}" if path.exists() else ""
        tell(f"{path} was damaged or removed: {lost} of {resumed_epoch} epochs are missing{kept}")
    write_lines(path, held)
    others = set(threading.enumerate())
    events = SummaryWriter(str(workdir / "tensorboard"), purge_step=resumed_epoch + 1)
    with path.open("a", encoding="utf-8") as lines, contextlib.closing(events):
        behind = set(threading.enumerate()) - others

        def write(epoch: int, values: Mapping[str, float]) -> None:
            lines.write(sealed({"epoch": epoch, **values}) + "\n")
            lines.flush()
            for name, value in values.items():
                # Once it has failed, nobody empties its queue: this would wait for ever.
                if not all(thread.is_alive() for thread in behind):
                    raise OSError(errno.ENOSPC, "events are not written any more", str(workdir))
                events.add_scalar(name, value, epoch)

        yield write


WriteEpoch = Callable[[int, dict[str, float]], None]
"""Takes the numbers of an epoch."""


@contextlib.contextmanager
def recorder(
    run: Run, workdir: pathlib.Path, progress: Progress, *, shown: bool = True
) -> Iterator[tuple[WriteEpoch, Callable[[Progress], None]]]:
    """Gives ``record(epoch, numbers)``, to the metrics, and ``show(progress)``, to a bar."""
    total, steps = run.config.train.epochs, run.steps_per_epoch
    if not is_first_process():
        yield (lambda epoch, numbers: None), (lambda progress: None)
        return
    with (
        metrics_writer(workdir, resumed_epoch=progress.epochs) as write,
        progress_bar(
            total=total * steps,
            initial=steps_done(run, progress),
            unit="step",
            disable=not shown,
        ) as bar,
    ):

        def record(epoch: int, numbers: dict[str, float]) -> None:
            write(epoch, numbers)
            accuracies = {k: f"{100 * v:.1f} %" for k, v in numbers.items() if k.endswith("top1")}
            loss = f"{numbers['train_loss']:.3f}"
            bar.set_postfix({"loss": loss, **accuracies}, refresh=False)

        def show(progress: Progress) -> None:
            bar.set_description(f"epoch {min(progress.epochs + 1, total)}/{total}", refresh=False)
            bar.update(steps_done(run, progress) - bar.n)

        yield record, show


def tell(message: str) -> None:
    """Says something about the run, once for all its processes."""
    if is_first_process():
        tqdm.write(message, file=sys.stderr)  # above a bar, if there is one
