"""The lines of the table: what is compiled, counted and predicted for each."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bbo.settings.config import ExperimentConfig, override

SCALINGS = ("strong", "weak")
"""The batch of all devices is fixed, or that of each."""


class Point(NamedTuple):
    """One line of the table."""

    model: str
    noise: str
    scaling: str
    width: float
    batch: int
    """The flag's: of all devices (strong) or of each (weak)."""
    topology: str
    """Of TPUs that are not there, or empty."""
    devices: int

    @property
    def global_batch(self) -> int:
        """Images in a step, over all devices."""
        return self.batch * (self.devices if self.scaling == "weak" else 1)

    def settings(self, config: ExperimentConfig) -> ExperimentConfig:
        """Those of this point, and the others as they are.

        Raises:
          UsageError: they do not fit each other.
        """
        return override(
            config,
            model=self.model,
            noise=self.noise,
            width=self.width,
            batch_size=self.global_batch,
        )


def line_of(row: Mapping[str, Any]) -> tuple:
    """What the rows of one line of the figure have in common: all but the number of devices."""
    chip = row["topology"].partition(":")[0]
    return (row["model"], row["noise"], row["scaling"], row["width"], row["batch"], chip)


def described(
    points: Sequence[Point], config: ExperimentConfig, num_images: int, peaks: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """A row for each point: what was counted there, and what is predicted from it (seconds).

    ``efficiency`` is the images per second and device, as a share of those on the fewest devices
    of the line. What does not fit into the memory has ``error`` instead of all that.

    Args:
      points: by line, fewest devices first.
      config: the settings that they share.
      num_images: in the data set.
      peaks: of each topology.
    """
    first: dict[tuple, float] = {}
    for point, counts in measured(points, config, num_images):
        row = point._asdict() | {"batch_size": point.global_batch, **counts}
        if "error" not in counts:
            row |= predicted(row, peaks[point.topology])
            speed = row["images_per_second"] / point.devices
            row["efficiency"] = speed / first.setdefault(line_of(row), speed)
        yield row


def measured(
    points: Sequence[Point], config: ExperimentConfig, num_images: int
) -> Iterator[tuple[Point, dict[str, Any]]]:
    """What is counted at each point; strong and weak scaling share what they can."""
    import jax

    from bbo.training.bar import progress_bar
    from experiments.scale.step_cost import step_counts, step_macs

    macs: dict[tuple, int] = {}
    known: dict[tuple, dict[str, Any]] = {}
    for point in progress_bar(points, desc="compiling", unit="program"):
        network = (point.model, point.width)
        if network not in macs:
            macs[network] = step_macs(override(point.settings(config), batch_size=2)) // 2
        settings = point.settings(config)
        program = (*network, point.noise, point.global_batch, point.topology, point.devices)
        if program not in known:
            try:
                known[program] = step_counts(settings, mesh_of(point), num_images)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                known[program] = {"error": " ".join(str(error).split())}
        per_device = point.global_batch // point.devices
        yield point, {"macs": macs[network] * per_device, **known[program]}


def mesh_of(point: Point) -> Any:
    """The devices of a point.

    Raises:
      UsageError: libtpu does not know the topology.
    """
    import jax

    from bbo.training.devices import data_mesh
    from experiments.scale import topology

    if point.topology:
        return data_mesh(topology.devices(topology.parse(point.topology)))
    return data_mesh(jax.devices()[: point.devices])


def predicted(row: Mapping[str, Any], peaks: Any) -> dict[str, Any]:
    """What a step takes at least (seconds), and what share of the memory.

    ``latency_limit``: the seconds that an exchange may take, beside sending, before communication
    takes longer than all else; negative if it does already.
    """
    from experiments.scale import roofline

    names = ("flops", "bytes_accessed", "sent_bytes", "num_collectives")
    found = roofline.predict(peaks, **{name: row[name] for name in names})
    sending = row["sent_bytes"] / peaks.link
    exchanges = row["num_collectives"] or float("nan")
    return {
        **{f"{name}_seconds": value for name, value in found._asdict().items()},
        "step_seconds": found.step,
        "bound": found.bound,
        "communication_share": found.communication / found.step,
        "latency_limit": (max(found.compute, found.memory) - sending) / exchanges,
        "images_per_second": row["batch_size"] / found.step,
        "memory_share": row["memory_bytes"] / peaks.memory,
    }
