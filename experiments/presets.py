"""Named presets: where a run starts from before flags change single settings.

  python -m experiments.run --preset=published/vgg16_cifar10 --noise=none --seed=1
  python -m experiments.run --preset=clean/thin_resnet34_cifar100 --epochs=60

``published/NETWORK_DATASET`` is an experiment of the paper and ``clean/NETWORK_DATASET`` its twin
under our protocol, for each of its networks and datasets; ``--noise`` chooses the method: none,
dropout or batch_bridgeout. ``--epochs`` scales the schedule of the learning rate, whose milestones
are shares of the epochs. All at once: experiments/sweeps/published.py and clean.py.

                                Cost          Published: CIFAR-10, 0 / 50 % of filters removed
  network        parameters  MACs an image  none         dropout      batch_bridgeout
  vgg16          14 728 266    313 million  93.8 / 10.8  92.9 / 10.1  92.7 / 70.3
  thin_resnet34     514 218     60 million  93.2 / 10.0  92.7 / 14.9  91.0 / 27.4
  wrn28_10       36 489 290  5 951 million  96.3 / -     95.6 / -     95.6 / 79.5

The accuracies (%) are the paper's, all in experiments/published; - is missing there. A run is 230
epochs of 50 000 images, 45 000 under ``clean``; a training step costs about three times the MACs.
What these presets reach at full length has not been measured: it takes an accelerator.
"""

import itertools

from bbo.settings.config import ExperimentConfig, override

digits = override(
    ExperimentConfig(),
    # A short run needs a large weight decay: the penalty works through it, with the time
    # constant 1 / (learning_rate * weight_decay).
    weight_decay=5e-3,
    epochs=60,
    batch_size=64,
    # The rate of the default is the best of those tried in experiments/sweeps/digits_tuning.py.
    q=1.0,
    # What is targeted is what is pruned.
    target_unit="filter",
    # The penalty acts until the end, and the best epoch on 144 images is often an early one.
    select="last",
)
"""8x8 handwritten digits that come with scikit-learn: offline, in a minute on two cores."""

clean = override(ExperimentConfig(), dataset="cifar10", model="vgg16")
"""No convolution biases, momentum kept, filters die whole, selection on held-out images."""

published = override(
    clean,
    conv_bias=True,
    final_norm_momentum=0.1,
    reset_momentum=True,
    # The authors' program applies its default target fraction to Dropout as well, so the baseline
    # of the paper may have been targeted; whether it was is not known.
    activation_target_fraction=0.75,
    validation_fraction=0.0,
    select="best_test",
    meaning="published",
    prune_norm_scales=True,
    recovery=("none",),
)
"""The protocol of the paper, with each of its quirks as a setting."""

recipe = override(
    clean,
    downscale=2,
    model="small_vgg",
    epochs=11,
    schedule="cosine",
    weight_decay=5e-4,
    select="last",
    noise="nested_dropping",
    removed_shares=(0.5, 0.7),
    clean_share=0.65,
    ramp_up=1.0,
    granularity=("filter",),
    recovery=("none", "batch_norm", "least_squares"),
)
"""Train once, prune to any of two sizes, see docs/recipe.md: what the search on CIFAR-10 at
16x16 chose, experiments/sweeps/recipe_search.py. A quarter of an hour on a core or less."""

MODELS = ("vgg16", "thin_resnet34", "wrn28_10")
"""The networks of the paper."""
DATASETS = ("cifar10", "cifar100")
"""The datasets of the paper."""

PRESETS = {"digits": digits, "recipe": recipe, "clean": clean, "published": published} | {
    f"{protocol}/{model}_{dataset}": override(preset, model=model, dataset=dataset)
    for (protocol, preset), model, dataset in itertools.product(
        (("published", published), ("clean", clean)), MODELS, DATASETS
    )
}
