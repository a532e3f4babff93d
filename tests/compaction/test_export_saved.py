"""Saved networks come back as they were, or are told to be damaged."""

import hashlib
import json
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bbo import trees
from bbo.compaction import export
from bbo.types import UsageError

VARIABLES = {
    "params": {
        "file": jnp.arange(6, dtype=jnp.float32).reshape(2, 3) / 7,
        "half": {"kernel": jnp.asarray([[1.5, -jnp.inf], [jnp.nan, 1e-30]], jnp.bfloat16)},
        "scale": jnp.asarray(-0.0, jnp.float16),
        "none": jnp.zeros((0, 3)),
    },
    "batch_stats": {"count": jnp.asarray(7), "seen": jnp.asarray([True, False])},
}
SPEC = {"model": "small_cnn", "width": 0.5, "kept": {"conv1": 3}, "shape": [8, 8, 3]}


def bits(tree):
    """Names, dtypes, shapes and bytes."""
    return {
        name: (str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes())
        for name, leaf in trees.flatten(tree).items()
    }


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path):
    for variables in ({"params": {"old": jnp.ones(3)}}, VARIABLES):  # one replaces the other
        export.save_network(tmp_path / "new", spec=SPEC, variables=variables)
    spec, loaded = export.load_network(tmp_path / "new")
    assert spec == SPEC
    assert jax.tree.structure(loaded) == jax.tree.structure(VARIABLES)
    assert bits(loaded) == bits(VARIABLES)
    files = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert files == ["network.json", "network.npz"]


def test_numpy_alone_reads_the_arrays(tmp_path):
    export.save_network(tmp_path, spec=SPEC, variables=VARIABLES)
    code = (
        "import json, sys, numpy as np\n"
        "told = json.load(open('network.json'))['arrays']\n"
        "held = np.load('network.npz')\n"
        "assert not {'jax', 'ml_dtypes', 'bbo'} & set(sys.modules)\n"
        "print(list(told) == held.files, held['params/file'].dtype, held['params/half/kernel'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    # 1.5 is 0 01111111 1000000.
    assert done.stdout.startswith(b"True float32 [[16320 65408]\n"), done.stderr


@pytest.mark.parametrize(
    "damage", ["bit", "cut", "json", "other", "digest", "shape", "dtype", "structure", "kind"]
)
def test_damage_is_found(damage, tmp_path):
    export.save_network(tmp_path, spec=SPEC, variables=VARIABLES)
    record, arrays = tmp_path / "network.json", tmp_path / "network.npz"
    content, told = bytearray(arrays.read_bytes()), json.loads(record.read_text())
    match damage:
        case "bit":
            content[len(content) // 2] ^= 1
        case "cut":
            del content[-100:]
        case "json":
            told = "{"
        case "other":
            told = [1]
        case "digest":
            del told["sha256"]
        case "shape":
            told["arrays"]["params/file"]["shape"] = [3, 2]
        case "dtype":
            told["arrays"]["params/file"]["dtype"] = "float31"
        case "structure":
            told["structure"] = {"list": ["params/file", "params/gone"]}
        case "kind":
            told["structure"] = {"Module": ["params/file", {}]}
    arrays.write_bytes(content)
    record.write_text(told if isinstance(told, str) else json.dumps(told))
    with pytest.raises(UsageError) as raised:
        export.load_network(tmp_path)
    assert str(raised.value) == (
        f"{tmp_path} holds a damaged network: network.json and network.npz do not fit; save it anew"
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [('"width": 0.5', '"width": 0.25'), ("record_sha256", "record_sha257"), ('"conv1"', '"conv3"')],
)
def test_a_record_that_was_changed_is_damaged(old, new, tmp_path):
    export.save_network(tmp_path, spec=SPEC, variables=VARIABLES)
    path = tmp_path / "network.json"
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UsageError, match="holds a damaged network"):
        export.load_network(tmp_path)


@pytest.mark.parametrize("name", ["network.json", "network.npz"])
def test_what_is_missing_is_named(name, tmp_path):
    export.save_network(tmp_path, spec=SPEC, variables=VARIABLES)
    (tmp_path / name).unlink()
    told = f"{name} cannot be read: No such file or directory; name a folder with network.json"
    with pytest.raises(UsageError, match=told):
        export.load_network(tmp_path)


@pytest.mark.parametrize(
    ("spec", "variables", "told"),
    [
        ({"dtype": jnp.float32}, {}, "not JSON serializable"),
        ({"rate": float("nan")}, {}, "not JSON compliant"),
        (
            {},
            {"a": {"b": "text"}},
            "^a/b is a str, and only arrays and numbers can be saved; leave",
        ),
        ({}, {"a": object()}, "^a is a object, and only arrays and numbers can be saved; leave it"),
        (
            {},
            {"act": jax.nn.relu},
            "^act is a custom_jvp, and only arrays and numbers can be saved",
        ),
        (
            {},
            {"a": np.array([None])},
            r"^a is object\[1\], and only arrays and numbers can be saved",
        ),
        (
            {},
            {"a": jax.ShapeDtypeStruct((2,), "f4")},
            r"^a is float32\[2\] without values; give an",
        ),
        ({}, {"a/b": jnp.ones(1), "a": {"b": jnp.ones(1)}}, "are both called a/b; rename a key"),
        ({}, {"a\0b": np.ones(1)}, "names of arrays must not contain zeros"),
        ({}, {"\ud800": np.ones(1)}, "^this cannot be saved as a network: .*surrogates"),
    ],
)
def test_what_cannot_be_saved_is_a_mistake(spec, variables, told, tmp_path):
    with pytest.raises(UsageError, match=told):
        export.save_network(tmp_path, spec=spec, variables=variables)
    assert not list(tmp_path.iterdir())


def test_what_is_traced_cannot_be_saved(tmp_path):
    def function(x):
        export.save_network(tmp_path, spec={}, variables={"a": x})

    with pytest.raises(UsageError, match="^a cannot be saved as an array: "):
        jax.jit(function)(jnp.ones(2))


def test_a_network_saved_before_structures_were_kept_is_nested_dicts(tmp_path):
    export.save_network(tmp_path, spec=SPEC, variables=VARIABLES)
    path = tmp_path / "network.json"
    told = json.loads(path.read_text())
    assert list(told) == ["spec", "structure", "arrays", "sha256", "record_sha256"]
    del told["structure"], told["record_sha256"]
    path.write_text(json.dumps(told))
    spec, loaded = export.load_network(tmp_path)
    assert spec == SPEC
    assert jax.tree.structure(loaded) == jax.tree.structure(VARIABLES)
    assert bits(loaded) == bits(VARIABLES)


@pytest.mark.parametrize(
    "shape", [b"(999999999999999999, 3), }", b"(9999999999999, 1000000), }", b"(-2, 3), }"]
)
def test_shapes_that_lie_are_a_damaged_network(shape, tmp_path):
    export.save_network(tmp_path, spec=SPEC, variables={"w": np.ones((2, 3), np.float32)})
    path, record = tmp_path / "network.npz", tmp_path / "network.json"
    with zipfile.ZipFile(path) as archive:
        member = archive.read("w.npy")
    header = member[:128].replace(b"(2, 3), }".ljust(len(shape)), shape)
    assert header != member[:128] and len(header) == 128
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", header + member[128:])
    told = json.loads(record.read_text())
    told["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    record.write_text(json.dumps(told))
    with pytest.raises(UsageError, match="holds a damaged network"):
        export.load_network(tmp_path)
    record.write_text("[" * 200_000)
    with pytest.raises(UsageError, match="holds a damaged network"):
        export.load_network(tmp_path)
