"""Stand-ins for SLURM's commands."""

import os

SQUEUE = 'env > "$FAKES/squeue.env"; cat "$FAKES/queue"'
SCONTROL = 'echo "MaxArraySize            = $MAX_ARRAY_SIZE"; echo "Max = 7"'
SBATCH = """
for word; do echo "$word"; done > "$FAKES/sbatch.$(ls "$FAKES" | grep -c sbatch.)"
count=$(ls "$FAKES" | grep -c sbatch.)
if [ "$count" = "$REFUSED" ]; then
  echo "sbatch: error: invalid partition: gpuu" >&2
  echo "sbatch: error: Batch job submission failed" >&2
  exit 1
fi
echo "$PRINTED$((100 + count))$CLUSTER"
"""


def write_program(path, text):
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def install(tmp_path, monkeypatch):
    """SLURM's commands; the queue is a file, and so are the arguments of every sbatch."""
    programs, state = tmp_path / "bin", tmp_path / "fakes"
    programs.mkdir()
    state.mkdir()
    (state / "queue").touch()
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scontrol", SCONTROL)):
        write_program(programs / name, text)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKES", str(state))
    monkeypatch.setenv("MAX_ARRAY_SIZE", "1001")
    for name in ("REFUSED", "PRINTED", "CLUSTER"):
        monkeypatch.delenv(name, raising=False)
    return state


def submitted(fakes):
    return [path.read_text().splitlines() for path in sorted(fakes.glob("sbatch.*"))]


def finish(out, *runs):
    for run in runs:
        folder = out / f"{run:04d}"
        folder.mkdir(parents=True)
        (folder / "summary.json").touch()
