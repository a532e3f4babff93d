"""The training steps of the PyTorch side are ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_side import draw, draw_images, loaded, model_of, relative, settings, to_torch

from bbo import noise, trees
from bbo.data import augmentation
from bbo.noise.bridgeout import bridgeout_perturb
from bbo.settings.config import override
from bbo.training import step as train
from bbo.training.optimizer import create_optimizer
from bbo.types import UsageError

torch = pytest.importorskip("torch")

from experiments.benchmark.pytorch import networks as torch_networks  # noqa: E402
from experiments.benchmark.pytorch import noise as torch_noise  # noqa: E402
from experiments.benchmark.pytorch import training as torch_training  # noqa: E402
from experiments.benchmark.pytorch.training import Variant  # noqa: E402


@pytest.fixture(autouse=True)
def _few_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def fixed_xi(w_shape):
    """A draw that depends on the shape alone, for a kernel of ours."""
    keep = np.random.default_rng(w_shape).random(w_shape) < 0.7
    return jnp.asarray(np.where(keep, 1 / 0.7 - 1, -1), jnp.float32)


def our_steps(config, variables, images, labels, count):
    info = config.data.info
    optimizer = create_optimizer(config.optimizer, epochs=1, steps_per_epoch=count)

    def weights(_, params):
        def disturb(_, w, chosen):
            return bridgeout_perturb(w, fixed_xi(w.shape), 1.5) if chosen else w

        return trees.map_named(disturb, params, trees.select(params, noise.spatial_kernels))

    noisy = config.noise.noise == "batch_bridgeout"
    regulariser = noise.Regulariser(weights=weights) if noisy else noise.none()
    recipe = train.Recipe(
        model_of(config), regulariser, optimizer, config.optimizer.label_smoothing
    )
    params = variables["params"]
    state = train.TrainState(
        jnp.zeros((), jnp.int32), params, variables["batch_stats"], optimizer.init(params)
    )
    pixels = augmentation.normalize(jnp.asarray(images), info.mean, info.std)
    batch = {"image": pixels, "label": jnp.asarray(labels), "index": jnp.arange(len(labels))}
    step = jax.jit(lambda state: train.train_step(state, batch, jax.random.key(0), recipe))
    losses = []
    for _ in range(count):
        state, metrics = step(state)
        losses.append(metrics["loss"])
    return losses, {"params": state.params, "batch_stats": state.batch_stats}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("noisy", ["none", "batch_bridgeout"])
@pytest.mark.parametrize("name", ["small_cnn", "thin_resnet18"])
def test_steps(name, noisy, channels_last, monkeypatch):
    config = settings(
        name, noise=noisy, augment=False, schedule="constant", label_smoothing=0.1, rate=0.3
    )
    variables, (images, labels) = draw(config), draw_images(config, 8)
    losses, after = our_steps(config, variables, images, labels, 2)
    monkeypatch.setattr(
        torch_noise, "draw_xi", lambda w, _: to_torch(fixed_xi(tuple(w.permute(2, 3, 1, 0).shape)))
    )
    network = loaded(config, variables)
    update = torch_training.create_update(config, Variant(channels_last), network=network)
    batch = torch.tensor(images), torch.tensor(labels).long()
    theirs = [float(update(*batch)) for _ in losses]
    np.testing.assert_allclose(theirs, np.array(losses), rtol=1e-4)
    state, before = network.state_dict(), torch_networks.state_of(variables)
    for key, ours in torch_networks.state_of(after).items():
        if not key.endswith("_var"):  # with Bessel's correction there
            assert relative(ours, state[key]) < 1e-4, key
            assert relative(ours - before[key], state[key] - before[key]) < 1e-3, key


def test_augmented_images_are_cut_out_of_padded_ones():
    images = torch.arange(1, 1 + 64 * 6 * 6, dtype=torch.int32).reshape(64, 6, 6, 1)
    torch.manual_seed(0)
    found = torch_training.augment(images, padding=2, flip=True)
    padded = torch.nn.functional.pad(images, (0, 0, 2, 2, 2, 2))
    places = set()
    for number in range(64):
        matching = [
            (top, left, turned)
            for top in range(5)
            for left in range(5)
            for turned in (False, True)
            if torch.equal(
                padded[number, top : top + 6, left : left + 6].flip(1 if turned else ()),
                found[number],
            )
        ]
        assert len(matching) == 1
        places |= set(matching)
    assert {top for top, _, _ in places} == {left for _, left, _ in places} == set(range(5))
    assert {turned for _, _, turned in places} == {False, True}
    assert torch_training.augment(images, padding=0, flip=False) is images


def test_normalised_as_ours():
    config = settings("small_cnn")
    info = config.data.info
    images, _ = draw_images(config)
    mean, std = torch.tensor(info.mean), torch.tensor(info.std)
    ours = augmentation.normalize(jnp.asarray(images), info.mean, info.std)
    theirs = torch_training.normalise(torch.tensor(images), mean=mean, std=std)
    np.testing.assert_allclose(theirs, np.asarray(ours), rtol=1e-6, atol=1e-6)


def test_a_pass_has_each_image_once():
    places = torch_training.batches(7, 3, device="cpu")
    for _ in range(3):
        drawn = torch.cat([next(places), next(places)])
        assert len(set(drawn.tolist())) == 6 and set(drawn.tolist()) <= set(range(7))


@pytest.mark.parametrize("variant", torch_training.variants("cpu"), ids=lambda v: v.text)
@pytest.mark.parametrize("noisy", ["none", "dropout", "batch_bridgeout"])
def test_variants_learn(variant, noisy):
    config = settings("small_cnn", dataset="digits", noise=noisy, batch_size=16, rate=0.1)
    images, labels = draw_images(config, 16)
    step = torch_training.create_step(config, variant, images, labels, device="cpu")
    first = float(step())
    torch_training.loop_of(step)(30)
    assert float(step()) < first / 2


@pytest.mark.parametrize("noisy", ["none", "dropout", "batch_bridgeout"])
def test_a_step_compiles_as_one_graph(noisy, monkeypatch):
    config = settings("small_cnn", noise=noisy, batch_size=8)
    batch = draw_images(config, 8)
    compile_ = torch.compile

    def traced(function, *, mode, fullgraph):
        # What is traced runs without the code generator: no compiler is needed, and no minute.
        return compile_(function, backend="aot_eager", fullgraph=fullgraph)

    monkeypatch.setattr(torch, "compile", traced)
    if noisy == "batch_bridgeout":
        # Compiled, it is drawn in another order. So it is drawn as ever, and not used.
        draw_xi = torch_noise.draw_xi
        fixed = lambda w, drawn: torch.where(w > 0, 3 / 7, -1.0).add_(drawn, alpha=0)  # noqa: E731
        monkeypatch.setattr(torch_noise, "draw_xi", lambda w, n: fixed(w, draw_xi(w, n)))
    plain = torch_training.create_step(config, Variant(True), *batch, device="cpu")
    expected = [float(plain()) for _ in range(3)]
    compiled = torch_training.create_step(config, Variant(True, compile=True), *batch, device="cpu")
    np.testing.assert_allclose([float(compiled()) for _ in range(3)], expected, rtol=1e-4)


def test_the_seed_decides():
    config = settings("small_cnn", dataset="digits", batch_size=4, noise="dropout")
    images, labels = draw_images(config, 12)
    losses = []
    for seed in (0, 0, 1):
        seeded = override(config, seed=seed)
        step = torch_training.create_step(seeded, Variant(), images, labels, device="cpu")
        losses.append([float(step()) for _ in range(4)])
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(
    "values", [{"noise": "shakeout"}, {"noise_on": "stem"}, {"activation_target_fraction": 0.5}]
)
def test_what_pytorch_has_no_side_for_is_refused(values):
    with pytest.raises(UsageError, match=next(iter(values))):
        torch_networks.create_network(settings("small_cnn", **values))


def test_too_few_images():
    config = settings("small_cnn", batch_size=8)
    with pytest.raises(UsageError, match="batch_size is 8; it must be at most 4"):
        torch_training.create_step(config, Variant(), *draw_images(config, 4), device="cpu")


def test_variants_and_description():
    texts = [variant.text for variant in torch_training.variants("cuda")]
    assert texts[0] == "channels_last float32" and len(set(texts)) == 4
    found = torch_training.describe()
    assert found["torch"] == torch.__version__ and found["threads"] == 1 and found["device"]
