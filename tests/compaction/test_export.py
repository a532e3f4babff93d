"""Exported networks are run elsewhere before they get their name."""

import itertools
import re
import sys

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from jax import lax
from layers import conv

from bbo import compaction, trees
from bbo.compaction import export
from bbo.models.create import create_model, kept_channels
from bbo.settings.sections import ModelConfig
from bbo.types import RunError, UsageError

pytestmark = pytest.mark.slow

SETTINGS = {"small_cnn": {"width": 0.25}, "thin_resnet18": {"width": 0.25}}
WRITERS = {"stablehlo": export.write_stablehlo, "onnx": export.write_onnx}
every_format = pytest.mark.parametrize("kind", WRITERS)


def needs(kind):
    """Skips what the extra ``export`` would be needed for."""
    for name in ("jax2onnx", "onnxruntime") if kind == "onnx" else ("flatbuffers",):
        pytest.importorskip(name)


@pytest.fixture(scope="module", params=SETTINGS)
def compacted(request):
    """The name of a network that has lost channels, the smaller one, the images, the logits."""
    name = request.param
    model = networks.build(name, **SETTINGS[name])

    def mask(leaf_name, leaf):
        dies = leaf_name.startswith("params") and "conv1_norm/" in leaf_name
        return leaf.at[::2].set(0) if dies else leaf

    masked = trees.map_named(mask, networks.draw(model, name))
    images = networks.random_images(name, 3)
    small = compaction.compact(model.apply, masked, images)
    assert small.cut
    return name, small, images, np.asarray(jax.jit(model.apply)(masked, images))


def rebuilt(name, small):
    """As a Linen module of smaller layers."""
    config = ModelConfig(model=name, **SETTINGS[name])
    return create_model(config, num_classes=10, kept=kept_channels(small.variables["params"])).apply


@every_format
def test_a_compacted_network_is_written_and_checked(compacted, kind, tmp_path):
    needs(kind)
    name, small, images, _ = compacted
    function = small.function if name == "small_cnn" else rebuilt(name, small)
    path = tmp_path / "new" / f"network.{kind}"
    check = WRITERS[kind](path, function, small.variables, images)
    assert check[:2] == (path, path.stat().st_size)
    assert check.difference < 5e-6
    assert check.batch_sizes == (1, 3)
    assert check.runtime.split()[0] == {"stablehlo": "jax", "onnx": "onnxruntime"}[kind]
    assert list(path.parent.iterdir()) == [path]


def plain(variables, images):
    """A network of few lines."""
    x = conv(images, variables["kernel"])
    return jax.nn.relu(x).reshape(images.shape[0], -1) @ variables["head"]


@pytest.fixture(scope="module")
def given():
    """Variables of the plain network, and images."""
    generator = np.random.default_rng(0)
    shapes = {"kernel": (3, 3, 3, 4), "head": (64, 5)}
    variables = {
        name: jnp.asarray(generator.standard_normal(shape), jnp.float32)
        for name, shape in shapes.items()
    }
    return variables, jnp.asarray(generator.standard_normal((6, 4, 4, 3)), jnp.float32)


@every_format
def test_any_batch_size_can_be_given(given, kind, tmp_path):
    needs(kind)
    variables, images = given
    path = tmp_path / f"network.{kind}"
    WRITERS[kind](path, plain, variables, images[:2])
    if kind == "onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(path)
        run = lambda some: session.run(["logits"], {"images": np.asarray(some)})[0]  # noqa: E731
    else:
        exported = jax.export.deserialize(bytearray(path.read_bytes()))
        assert exported.platforms == ("cpu", "cuda", "tpu")
        run = exported.call
    for size in (1, 5, 6):
        some = images[:size]
        np.testing.assert_allclose(run(some), plain(variables, some), rtol=1e-5, atol=1e-5)


def test_functions_compiled_before_onnx_are_not_spoilt_by_it(given, tmp_path):
    needs("onnx")
    variables, images = given
    scaled = jax.jit(lambda head: jnp.tanh(head) * 2)  # of a shape that is known while tracing

    def function(variables, images):
        return plain(variables | {"head": scaled(variables["head"])}, images)

    try:
        export.write_onnx(tmp_path / "network.onnx", function, variables, images)
    except RunError as error:
        if "has no attribute 'ClosedJaxpr'" not in str(error):
            raise
        pytest.skip("this jax2onnx cannot convert compiled functions within functions on this jax")
    np.testing.assert_allclose(
        scaled(variables["head"]), 2 * np.tanh(variables["head"]), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize(("kind", "error"), [("stablehlo", 1e-3), ("onnx", float("nan"))])
def test_what_differs_gets_no_file(given, kind, error, tmp_path):
    needs(kind)
    variables, images = given
    # Not pure: traced for each of two batch sizes here, and a third time for the file.
    errors = itertools.chain([0.0, 0.0], itertools.repeat(error))

    def function(variables, images):
        return plain(variables, images) * (1 + next(errors))

    path = tmp_path / f"network.{kind}"
    path.write_text("what was there")
    told = "nan" if np.isnan(error) else "1.0e-03"
    with pytest.raises(RunError, match=f"network.{kind} is not written.* differ by {told} of"):
        WRITERS[kind](path, function, variables, images)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [
        (f"network.{kind}", "what was there")
    ]


@every_format
def test_a_function_of_one_batch_size_is_refused(given, kind, tmp_path):
    needs(kind)
    variables, images = given

    def function(variables, images):
        return plain(variables, images) + jnp.zeros(int(images.shape[0]))[:, None]

    with pytest.raises(RunError, match=f"^network.{kind} cannot be made of .*: Inconclusive.*$"):
        WRITERS[kind](tmp_path / f"network.{kind}", function, variables, images)
    assert not list(tmp_path.iterdir())


def test_what_onnxruntime_cannot_run_gets_no_file(given, tmp_path):
    needs("onnx")
    variables, images = given

    def function(variables, images):
        window = (1, 2, 2, 1)
        return lax.reduce_window(images, -jnp.inf, lax.max, window, window, "VALID").mean((1, 2))

    with pytest.raises(RunError, match="cannot be run in a fresh process: .*Unsupported pooling"):
        export.write_onnx(tmp_path / "network.onnx", function, variables, images)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["flatbuffers", "jax2onnx", "onnxruntime"])
def test_what_is_not_installed_is_named(given, missing, monkeypatch, tmp_path):
    if missing == "jax2onnx":
        needs("onnx")
    monkeypatch.setitem(sys.modules, missing, None)
    write = WRITERS["stablehlo" if missing == "flatbuffers" else "onnx"]
    further = " && pip install --no-deps 'jax2onnx>=0.17'" if missing == "jax2onnx" else ""
    told = f"{missing} is not installed; pip install 'batch-bridgeout[export]'{further}"
    with pytest.raises(UsageError, match=f"^{re.escape(told)}$"):
        write(tmp_path / "network", plain, *given)


@every_format
def test_one_image_does_not_do(given, kind, tmp_path):
    needs(kind)
    variables, images = given
    with pytest.raises(UsageError, match=r"shape is \(1, 4, 4, 3\); it must be that of 2 images"):
        WRITERS[kind](tmp_path / "network", plain, variables, images[:1])


def test_a_place_that_cannot_be_written_is_a_mistake(given, tmp_path):
    needs("stablehlo")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file/network cannot be written: .*; name another$"):
        export.write_stablehlo(tmp_path / "file" / "network", plain, *given)


def test_a_compacted_network_is_rebuilt_from_what_is_saved(compacted, tmp_path):
    name, small, images, logits = compacted
    kept = kept_channels(small.variables["params"])
    spec = {"model": {"model": name, **SETTINGS[name]}, "kept": kept}
    export.save_network(tmp_path, spec=spec, variables=small.variables)
    spec, loaded = export.load_network(tmp_path)
    model = create_model(ModelConfig(**spec["model"]), num_classes=10, kept=spec["kept"])
    found = np.asarray(jax.jit(model.apply)(loaded, images))
    assert np.abs(found - logits).max() < 1e-5 * np.abs(logits).max()
