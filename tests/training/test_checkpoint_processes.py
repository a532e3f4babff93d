"""Two processes and a damaged checkpoint: both go back to the same one before."""

import pytest
from processes import finish, start

RESTORES = """
import pathlib, shutil, sys
import jax.numpy as jnp, numpy as np
from bbo.training import checkpoint, devices
devices.join_processes()

def tree(seed):
    numbers = np.random.default_rng(seed).standard_normal(50_000)
    return devices.replicate({"x": jnp.asarray(numbers, jnp.float32)}, devices.data_mesh())

def largest(folder):
    return max(folder.glob("default/**/d/*"), key=lambda path: path.stat().st_size)

def flip(folder):
    content = bytearray(largest(folder).read_bytes())
    content[len(content) // 2] ^= 0x10
    largest(folder).write_bytes(content)

def other_arrays(folder):
    told = (folder / "_CHECKPOINT_METADATA").read_text()
    shutil.rmtree(folder)
    shutil.copytree(folder.parent / "3", folder)
    (folder / "_CHECKPOINT_METADATA").write_text(told)

def read_wrongly_by_one():
    def check(tree, told, whole=checkpoint._check):
        checkpoint._check = whole
        if not devices.is_first_process():
            raise ValueError("read wrongly by one process")
    checkpoint._check = check

DAMAGES = {
    "whole": lambda folder: None,
    "one bit": flip,
    "cut short": lambda folder: largest(folder).write_bytes(largest(folder).read_bytes()[:999]),
    "removed": lambda folder: largest(folder).unlink(),
    "other arrays": other_arrays,
    "nothing told": lambda folder: (folder / "_CHECKPOINT_METADATA").write_text(""),
    "no structure": lambda folder: (folder / "default/_METADATA").write_text(""),
    "read wrongly": lambda folder: None,
}
source = pathlib.Path(sys.argv[1])
with checkpoint.open_checkpoints(source / "saved") as manager:
    for count in (3, 4):
        checkpoint.save(manager, count, tree(count))
for name, damage in DAMAGES.items():
    if devices.is_first_process():
        shutil.copytree(source / "saved", source / name)
        damage(source / name / "checkpoints/4")
    devices.agreed(1)
    if name == "read wrongly":
        read_wrongly_by_one()
    with checkpoint.open_checkpoints(source / name) as manager:
        count, found = checkpoint.restore_newest(manager, tree(0))
    same = np.array_equal(found["x"], tree(count)["x"])
    print(f"{name}: {count}, {'as saved' if same else 'changed'}")
"""


@pytest.mark.slow
def test_both_go_back_to_the_same(tmp_path):
    statuses, outputs = finish(start(["-c", RESTORES, str(tmp_path)], count=2, devices=1))
    assert statuses == [0, 0], outputs
    names = ["one bit", "cut short", "removed", "other arrays", "nothing told", "no structure"]
    names.append("read wrongly")
    expected = ["whole: 4, as saved", *(f"{name}: 3, as saved" for name in names)]
    for output in outputs:
        assert [line for line in output.splitlines() if line.endswith("d")] == expected
    folders = sorted(path.name for path in (tmp_path / "one bit/checkpoints").iterdir())
    assert folders == ["3", "4.damaged"]
