"""How far a run is and what it found, from its folder; any file may be absent or half written."""

import pathlib
from typing import Any

from bbo.files import parse_json


def summary(folder: pathlib.Path) -> dict[str, Any]:
    """What a finished run has found; {} if there is nothing to be read."""
    return _record(_read(folder / "summary.json"))


def accuracy(folder: pathlib.Path) -> str:
    """The test accuracy of the network before it is pruned: ``test 98.6 %, batch_norm 99.2 %``."""
    found = summary(folder).get("unpruned_test_top1")
    accuracies = found if isinstance(found, dict) else {}
    parts = [
        f"{'test' if recovery == 'none' else recovery} {_percent(value)}"
        for recovery, value in accuracies.items()
    ]
    return ", ".join(parts)


def epoch(folder: pathlib.Path) -> str:
    """The last epoch: ``epoch 12/60, validation 95.1 %``; empty before the end of the first."""
    # What follows the last newline is still being written.
    lines = _read(folder / "metrics.jsonl").rpartition("\n")[0].splitlines()
    last = _record(lines[-1]) if lines else {}
    if "epoch" not in last:
        return ""
    total = _section(_section(_record(_read(folder / "config.json")), "config"), "train")
    text = f"epoch {last['epoch']}" + (f"/{total['epochs']}" if "epochs" in total else "")
    watched = [name for name in ("validation", "test") if f"{name}_top1" in last]
    return ", ".join([text, *(f"{name} {_percent(last[f'{name}_top1'])}" for name in watched)])


def _percent(value: Any) -> str:
    return f"{100 * value:.1f} %" if isinstance(value, int | float) else str(value)


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _record(text: str) -> dict[str, Any]:
    try:
        found = parse_json(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _section(record: dict[str, Any], name: str) -> dict[str, Any]:
    found = record.get(name)
    return found if isinstance(found, dict) else {}
