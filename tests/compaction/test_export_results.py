"""What an exported function may be given, and may give."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bbo.compaction import export
from bbo.types import RunError, UsageError

IMAGES = jnp.arange(24.0).reshape(4, 2, 1, 3) / 24
W = jnp.asarray([[1.0, -2.0], [0.5, 3.0], [-1.0, 1.0]])
KEY = jax.random.key(0)


class Pair(NamedTuple):
    a: Any
    b: Any


def logits(w, images):
    return images.mean((1, 2)) @ w


def several(w, images):
    found = logits(w, images)
    return {"aux": [found.argmax(-1), None, (images < 2).all()], "logits": found, "none": ()}


@pytest.fixture(params=["stablehlo", "onnx"])
def write(request):
    for name in ("jax2onnx", "onnxruntime") if request.param == "onnx" else ("flatbuffers",):
        pytest.importorskip(name)
    return getattr(export, f"write_{request.param}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "function", [several, lambda w, x: (logits(w, x), x.mean()), lambda w, x: [logits(w, x)[:, :0]]]
)
def test_several_results_are_checked_one_by_one(write, function, tmp_path):
    check = write(tmp_path / "network", function, W, IMAGES)
    assert check.difference < 1e-6


@pytest.mark.slow
def test_results_in_onnx_have_names(tmp_path):
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    export.write_onnx(tmp_path / "network.onnx", several, W, IMAGES[:2])
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    names = [output.name for output in session.get_outputs()]
    assert names == ["aux/0", "aux/2", "logits"]
    found = dict(zip(names, session.run(None, {"images": np.asarray(IMAGES)}), strict=True))
    np.testing.assert_array_equal(found["aux/0"], logits(W, IMAGES).argmax(-1))
    np.testing.assert_allclose(found["logits"], logits(W, IMAGES), rtol=1e-6)


@pytest.mark.slow
def test_the_tree_of_results_is_in_a_stablehlo_file(tmp_path):
    path = tmp_path / "network"
    export.write_stablehlo(path, several, W, IMAGES[:2])
    found = jax.export.deserialize(bytearray(path.read_bytes())).call(IMAGES)
    wanted = several(W, IMAGES)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    np.testing.assert_allclose(found["logits"], wanted["logits"], rtol=1e-6)


@pytest.mark.slow
def test_a_single_result_that_differs_is_found(tmp_path):
    calls = iter(range(10))

    def function(w, images):  # not pure: traced for both batch sizes, and once more for the file
        return images.sum(), logits(w, images) + 1e-3 * (next(calls) > 1)

    with pytest.raises(
        RunError, match="is not written: jax .* gives results that differ by [0-9.]"
    ):
        export.write_stablehlo(tmp_path / "network", function, W, IMAGES)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*value. access is now:DeprecationWarning")  # jax2onnx's
def test_keys_among_the_variables_are_passed_on(write, tmp_path):
    class Network(nnx.Module):
        def __init__(self, rngs):
            self.drop, self.out = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(3, 2, rngs=rngs)

        def __call__(self, images):
            return self.out(self.drop(images).mean((1, 2)))

    network = Network(nnx.Rngs(0))
    network.eval()
    graph, state = nnx.split(network)
    function = lambda state, images: nnx.merge(graph, state)(images)  # noqa: E731
    assert write(tmp_path / "network", function, state, IMAGES).difference < 1e-6


@pytest.mark.slow
def test_stablehlo_draws_random_numbers(tmp_path):
    def noisy(variables, images):
        drawn = sum(jax.random.normal(key, (2,)) for key in (variables["key"], KEY))
        return logits(variables["w"], images) + drawn

    variables = {"w": W, "key": jax.random.key(1)}
    assert export.write_stablehlo(tmp_path / "a", noisy, variables, IMAGES).difference < 1e-6
    if pytest.importorskip("jax2onnx"):
        with pytest.raises(RunError, match="^b cannot be made of this function: TypeError: .*Key"):
            export.write_onnx(tmp_path / "b", noisy, variables, IMAGES)


ALLOWED = "; an exported function may give an array of numbers, or several in dicts, lists and tup"


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (
            lambda w, x: Pair(logits(w, x), x),
            r"^the function gives .*namedtuple\[Pair\].*" + ALLOWED,
        ),
        (lambda w, x: (logits(w, x), KEY), r"^the function gives key<fry>\[\]" + ALLOWED),
        (lambda w, x: None, r"^the function gives \(None\)" + ALLOWED),
        (
            lambda w, x: {"a/b": x, "a": {"b": x}},
            "are both called a/b; rename a key of one of them",
        ),
    ],
)
def test_other_results_are_mistakes(write, function, told, tmp_path):
    with pytest.raises(UsageError, match=told):
        write(tmp_path / "network", function, W, IMAGES)


def test_variables_that_are_no_arrays_are_named(write, tmp_path):
    variables = {"w": W, "act": jax.nn.relu}
    with pytest.raises(
        UsageError, match="^act is a custom_jvp, and only arrays and numbers can be ex"
    ):
        write(tmp_path / "network", lambda v, x: logits(v["w"], x), variables, IMAGES)


def test_a_function_that_fails_is_told_in_a_line(write, tmp_path):
    with pytest.raises(RunError, match=r"^network cannot be made of this function: TypeError: .*$"):
        write(tmp_path / "network", lambda w, x: x @ w.T, W, IMAGES)
