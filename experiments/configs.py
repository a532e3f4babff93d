"""Named presets: where a run starts from before flags change single settings."""

from bbo.config import ExperimentConfig, override

digits = override(
    ExperimentConfig(),
    # A short run needs a large weight decay: the penalty works through it, with the time
    # constant 1 / (learning_rate * weight_decay).
    weight_decay=5e-3,
    epochs=60,
    batch_size=64,
    rate=0.15,
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
    validation_fraction=0.0,
    select="best_test",
    meaning="published",
    prune_norm_scales=True,
    recovery=("none",),
)
"""The protocol of the paper, with each of its quirks as a setting."""

PRESETS = {"digits": digits, "clean": clean, "published": published}
