"""Steps that really remove filters are those of the pruned network, and take their turns."""

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from bbo import pruning
from bbo.noise.regulariser import Regulariser, draw_share
from bbo.noise.schedule import draw_removed
from bbo.pipeline.configured import model_of
from bbo.pipeline.loop import train_network
from bbo.pipeline.prunable import pruned_at, removed_at
from bbo.pipeline.run import set_up, training_batches
from bbo.pipeline.vmapped import check_alike
from bbo.settings.config import ExperimentConfig, override
from bbo.settings.noise_section import NoiseConfig
from bbo.training.step import noisy_forward
from bbo.types import UsageError

CONFIG = override(
    ExperimentConfig(),
    granularity=("filter",),
    noise="nested_dropping",
    removed_shares=(0.5, 0.75),
    clean_share=0.5,
)
NOISE = CONFIG.noise
IMAGES = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))


@pytest.mark.parametrize(
    ("model", "width", "scope", "share"),
    [("small_cnn", 1.0, "local", 0.3), ("thin_resnet18", 0.25, "local", 0.75)],
)
def test_it_is_the_masked_network_and_its_gradient(model, width, scope, share):
    config = override(CONFIG, model=model, width=width, scope=scope)
    network = model_of(config)
    variables = networks.fill(jax.eval_shape(network.init, jax.random.key(0), IMAGES))
    prune, sizes = pruned_at(config, network), []

    def build(kept):
        sizes.append(kept)
        return model_of(config, kept=kept)

    @jax.jit
    @jax.value_and_grad
    def masking(params):
        regulariser = Regulariser(weights=lambda rng, params: prune(params, share))
        return loss(params, regulariser)

    @jax.jit
    @jax.value_and_grad
    def removing(params):
        return loss(params, Regulariser(network=removed_at(config, network, share, build)))

    def loss(params, regulariser):
        held, batch = variables | {"params": params}, {"image": IMAGES, "index": jnp.arange(4)}
        logits, _ = noisy_forward(network, regulariser, held, batch, jax.random.key(1))
        return jnp.sum(jnp.sin(logits))

    masked, removed = masking(variables["params"]), removing(variables["params"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), masked, removed
    )
    scored = pruning.scores(variables["params"], criterion="l2", granularity="filter")
    dropped = pruning.drop_counts(scored, share)
    # Channels that several kernels put out stay, as zeros, unless the scope is whole groups.
    alone = {name for name in scored if model == "small_cnn" or name.endswith("/conv1/kernel")}
    assert sizes == [
        {
            name.removesuffix("/kernel"): score.size - dropped[name] * (name in alone)
            for name, score in scored.items()
        }
    ]


def test_the_steps_of_each_share_by_formula():
    rng, most = jax.random.key(3), 2000
    drawn = draw_removed(NOISE, rng, most)
    places = [float(draw_share(jax.random.fold_in(rng, step), 1.0)) for step in range(50)]
    expected = [1 if u < 0.25 else 2 if u < 0.5 else 0 for u in places]
    assert drawn[:50].tolist() == expected
    assert draw_removed(NoiseConfig(noise="dropout", clean_share=0.5), rng, 7).tolist() == [0] * 7
    both = override(CONFIG, clean_in="each_step").noise
    assert set(draw_removed(both, rng, 100)) == {1, 2}
    ramped = draw_removed(override(CONFIG, ramp_up=1.0).noise, rng, most) > 0
    quarters = ramped.reshape(4, -1).mean(axis=1)  # 1/16, 3/16, ... of the steps; 4 sigma are .06
    np.testing.assert_allclose(quarters, np.array([1, 3, 5, 7]) / 16, atol=0.09)
    late = draw_removed(override(CONFIG, noise_from=0.75).noise, rng, most)
    assert not late[:1500].any() and late[1500:].tolist() == drawn[1500:].tolist()


def test_the_loop_takes_each_step_by_its_program(tmp_path):
    run, taken = set_up(override(CONFIG, epochs=2, select="last")), []

    def watched(number):
        def step(state, images, batch):
            taken.append((number, batch["row"][0]))
            return run.programs.train(state, images, batch)

        return step

    programs = run.programs._replace(train=watched(0), removing=(watched(1), watched(2)))
    train_network(run._replace(programs=programs), tmp_path)
    noise_rng = jax.random.split(run.rngs["train"])[1]
    drawn = draw_removed(NOISE, noise_rng, 2 * run.steps_per_epoch)
    rows = [batch["row"][0] for epoch in (1, 2) for batch in training_batches(run, epoch)]
    assert taken == list(zip(drawn.tolist(), rows, strict=True))


def test_a_step_without_filters_leaves_the_statistics():
    run = set_up(CONFIG)
    old = jax.tree.map(np.asarray, (run.state.params, run.state.batch_stats))
    batch = next(training_batches(run, 1))
    state, _ = run.programs.removing[1](run.state, run.images["train"], batch)
    jax.tree.map(np.testing.assert_array_equal, state.batch_stats, old[1])
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), state.params, old[0])
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"clean_share": 0.0}, "set clean_share"),
        ({"removed_shares": (0.5, 0.25)}, "removed_shares is .* increasing"),
        ({"removed_shares": (0.5, 1.0)}, "removed_shares is"),
        ({"meaning": "published"}, "removed_shares removes whole channels"),
        ({"scope": "global"}, "layers that keep their size"),
        ({"steps_per_call": 2}, "set steps_per_call to 1"),
    ],
)
def test_what_it_cannot_be_combined_with(changes, told):
    with pytest.raises(UsageError, match=told):
        override(CONFIG, **changes)


def test_several_seeds_in_one_program_cannot():
    with pytest.raises(UsageError, match="networks of one size"):
        check_alike([CONFIG, override(CONFIG, seed=1)])


def test_what_has_an_effect():
    assert "target_fraction" not in NOISE.effective
    assert NOISE.effective["removed_shares"] == (0.5, 0.75)
    assert (
        "removed_shares" not in override(CONFIG, removed_shares=(), clean_share=0.0).noise.effective
    )
