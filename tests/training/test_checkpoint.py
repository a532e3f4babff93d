"""Checkpoints: what is saved comes back, bit for bit, on any number of devices."""

import contextlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from bbo.training import checkpoint
from bbo.training.devices import data_mesh, replicate
from bbo.training.optimizer import reset_every
from bbo.training.step import TrainState
from bbo.types import RunError, UsageError


def make_state(value=1.0):
    """Every kind of leaf that a run has; the state of the optimiser nests NamedTuples."""
    generator = np.random.default_rng(int(value))
    params = {
        "conv": {"kernel": jnp.asarray(generator.standard_normal((3, 3, 2, 4)), jnp.float32)},
        "half": jnp.asarray(generator.standard_normal(5), jnp.bfloat16),
    }
    optimizer = optax.chain(
        reset_every(optax.trace(decay=0.9, nesterov=True), 3),
        optax.scale_by_schedule(optax.constant_schedule(0.1)),
    )
    opt_state = jax.tree.map(lambda x: x + jnp.asarray(value, x.dtype), optimizer.init(params))
    stats = {"conv_norm": {"mean": jnp.full(4, value, jnp.float32)}}
    return TrainState(jnp.asarray(int(value), jnp.int32), params, stats, opt_state)


def spread(tree, count):
    return replicate(tree, data_mesh(jax.devices()[:count]))


def save_all(folder, counts, *, tree=None):
    with checkpoint.open_checkpoints(folder) as manager:
        for count in counts:
            checkpoint.save(manager, count, make_state(count) if tree is None else tree)
        manager.wait_until_finished()
        return list(manager.all_steps())


def check_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))


def restore(folder, like):
    with checkpoint.open_checkpoints(folder) as manager:
        return checkpoint.restore_newest(manager, like)


@pytest.mark.parametrize(("before", "after"), [(1, 8), (8, 1), (8, 8)])
def test_round_trip(tmp_path, before, after):
    tree = (make_state(7.0), {"best": jnp.full((), 0.25)})
    save_all(tmp_path, [3], tree=spread(tree, before))
    like = spread(jax.tree.map(jnp.zeros_like, tree), after)
    count, found = restore(tmp_path, like)
    assert count == 3
    check_equal(found, tree)
    for mine, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(like), strict=True):
        assert mine.sharding == wanted.sharding and len(mine.sharding.device_set) == after


def test_a_fresh_folder_gives_the_beginning(tmp_path):
    like = make_state()
    count, found = restore(tmp_path, like)
    assert count == 0 and found is like


def test_the_newest_two_are_kept(tmp_path):
    assert save_all(tmp_path, [1, 2]) == [1, 2]
    assert save_all(tmp_path, range(3, 8)) == [6, 7]
    assert folders_of(tmp_path) == {"6", "7"}
    count, found = restore(tmp_path, make_state())
    assert count == 7
    check_equal(found, make_state(7))


def test_a_checkpoint_that_cannot_be_read_is_told_in_a_line(tmp_path):
    save_all(tmp_path / "other", [3], tree={"x": jnp.zeros(2)})
    with pytest.raises(RunError, match=r"checkpoints/3 cannot be read.* remove .* to train anew"):
        restore(tmp_path / "other", make_state())
    save_all(tmp_path / "damaged", [4])
    damage(tmp_path / "damaged/checkpoints/4")
    with pytest.raises(RunError, match="damaged"):
        restore(tmp_path / "damaged", make_state())


@pytest.mark.parametrize(
    ("saved", "left"),
    [
        # Ended between two saves, at the beginning, and before the older of three was removed.
        (([1, 2], [1]), ({"1"}, {"1"})),
        (([1], []), (set(), set())),
        (([2, 3], [1, 2]), ({"2"}, {"1", "2"})),
        # Nothing to remove; two are too many.
        (([1, 2], [1, 2]), None),
        (([2, 3], [1]), None),
        (([4, 5], []), None),
    ],
)
def test_runs_go_back_to_what_all_have(saved, left, tmp_path):
    places = [tmp_path / str(index) for index in range(2)]
    for place, counts in zip(places, saved, strict=True):
        save_all(place, counts)
    before = tuple(map(folders_of, places))
    with contextlib.ExitStack() as stack:
        managers = [stack.enter_context(checkpoint.open_checkpoints(place)) for place in places]
        assert checkpoint.go_back(managers) == (left is not None)
        found = [checkpoint.restore_newest(manager, make_state())[0] for manager in managers]
    assert tuple(map(folders_of, places)) == (left or before)
    assert left is None or len(set(found)) == 1


def folders_of(folder):
    return {path.name for path in (folder / "checkpoints").iterdir() if path.is_dir()}


def flip(folder):
    """One bit of each array changes, and nothing by which Orbax could tell."""
    changed = {"x": np.asarray([1.0, 2.0, 3.0], np.float32)}
    changed["x"].view(np.uint8)[5] ^= 0x10
    told = folder / "_CHECKPOINT_METADATA"
    kept = told.read_text()
    with ocp.StandardCheckpointer() as writer:
        writer.save(folder / "default", changed, force=True)
    assert told.read_text() == kept


def save_numbers(folder, counts):
    numbers = {"x": jnp.asarray([1.0, 2.0, 3.0])}
    save_all(folder, counts, tree=numbers)
    return numbers


def test_of_a_flipped_bit_the_checkpoint_before_is_taken(tmp_path, caplog):
    numbers = save_numbers(tmp_path, [3, 4])
    flip(tmp_path / "checkpoints/4")
    count, found = restore(tmp_path, numbers)
    assert count == 3 and folders_of(tmp_path) == {"3", "4.damaged"}
    check_equal(found, numbers)
    (line,) = (text for text in caplog.messages if "set aside" in text)
    assert line.startswith(f"checkpoint {tmp_path}/checkpoints/4 is damaged: set aside as 4.dam")
    # The count is free again, and another damaged one has another name.
    save_numbers(tmp_path, [4])
    assert restore(tmp_path, numbers)[0] == 4
    flip(tmp_path / "checkpoints/4")
    assert restore(tmp_path, numbers)[0] == 3
    assert folders_of(tmp_path) == {"3", "4.damaged", "4.damaged2"}


def test_if_all_are_damaged_all_stay(tmp_path):
    numbers = save_numbers(tmp_path, [3, 4])
    for count in (3, 4):
        flip(tmp_path / f"checkpoints/{count}")
    for _ in range(2):
        with pytest.raises(RunError, match=r"checkpoint \S+/4 and \S+/3 cannot be read.* anew"):
            restore(tmp_path, numbers)
        with pytest.raises(RunError, match=r"checkpoint \S+/4 cannot be read: it is damaged"):
            checkpoint.read_newest(tmp_path)
    assert folders_of(tmp_path) == {"3", "4"}


@pytest.mark.parametrize("text", ["", "[1]", '{"custom_metadata": {"sha257": "0"}}', None])
def test_a_digest_that_is_damaged_is_none(text, tmp_path):
    numbers = save_numbers(tmp_path, [3, 4])
    path = tmp_path / "checkpoints/4/_CHECKPOINT_METADATA"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(RunError, match="checkpoints/4 cannot be read"):
        checkpoint.read_newest(tmp_path)
    assert restore(tmp_path, numbers)[0] == 3
    (tmp_path / "checkpoints/3/_CHECKPOINT_METADATA").write_text("")
    with pytest.raises(RunError, match=r"checkpoint \S+/3 cannot be read.* anew"):
        restore(tmp_path, numbers)
    assert folders_of(tmp_path) == {"3", "4.damaged"}


def test_one_from_before_there_were_digests_is_read(tmp_path):
    numbers = {"x": jnp.asarray([1.0, 2.0, 3.0])}
    with checkpoint.open_checkpoints(tmp_path) as manager:
        manager.save(3, args=ocp.args.StandardSave(numbers), force=True)
    assert restore(tmp_path, numbers)[0] == 3
    check_equal(checkpoint.read_newest(tmp_path), numbers)


def damage(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:3])


@pytest.mark.parametrize("devices", [1, 8])
def test_what_is_saved_can_be_read_without_knowing_it(tmp_path, devices):
    state, rest = make_state(7.0), {"best": jnp.full((), 0.25)}
    save_all(tmp_path, [3], tree=spread((state, rest), devices))
    before = sorted(tmp_path.rglob("*"))
    found, found_rest = checkpoint.read_newest(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    check_equal([found["params"], found["batch_stats"], found_rest], [*state[1:3], rest])
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found))
    assert int(found["step"]) == 7


def test_what_cannot_be_read_is_told_in_a_line(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UsageError, match=r"has no checkpoint; name the folder of a run"):
            checkpoint.read_newest(folder)
        assert not folder.exists() or not any(folder.iterdir())
    (tmp_path / "empty/checkpoints").mkdir(parents=True)
    with pytest.raises(UsageError, match="no checkpoint"):
        checkpoint.read_newest(tmp_path / "empty")
    save_all(tmp_path, [4])
    damage(tmp_path / "checkpoints/4")
    with pytest.raises(RunError, match=r"checkpoints/4 cannot be read.* the command of the run"):
        checkpoint.read_newest(tmp_path)


def test_coroutines_that_a_damaged_one_leaves_are_not_told(monkeypatch):
    async def abandoned():
        pass

    told, coroutine = [], abandoned()
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    checkpoint._let_coroutines_go.__wrapped__()
    for held in (coroutine, None):
        sys.unraisablehook(types.SimpleNamespace(object=held, exc_value=ValueError("many lines")))
    coroutine.close()
    assert [left.object for left in told] == [None]
