"""Means and variances of batches, pooled to those of all images."""

from collections.abc import Callable, Sequence

import numpy as np

from bbo.types import UsageError

VARIANCES = ("variance", "var")
MEANS = ("mean", "avg")
"""Parts of the names of statistics, such as ``running_var`` or ``mean_ema/average``."""


def mean_beside(name: str) -> str | None:
    """The mean that belongs to a statistic if its name says variance, None if it says mean.

    The last part of the name that says either counts.

    Raises:
      UsageError: the name says neither.

    >>> mean_beside("bn/moving_variance"), mean_beside("bn/~/var_ema/average")
    ('bn/moving_mean', 'bn/~/mean_ema/average')
    >>> mean_beside("var_net/bn/running_mean") is None
    True
    """
    parts = name.split("/")
    for place in reversed(range(len(parts))):
        words = parts[place].split("_")
        if any(word in MEANS for word in words):
            return None
        if any(word in VARIANCES for word in words):
            words = ["mean" if word in VARIANCES else word for word in words]
            return "/".join([*parts[:place], "_".join(words), *parts[place + 1 :]])
    raise UsageError(
        f"the statistic {name} is called neither mean nor var(iance); say which is which: mean_of "
        "gives, for the name of a variance, that of its mean, and None for what is averaged, as "
        "{'0/1': '0/0'}.get does"
    )


def pooled(
    batches: Sequence[dict[str, np.ndarray]],
    weights: np.ndarray,
    mean_of: Callable[[str], str | None],
) -> dict[str, np.ndarray]:
    """Statistics of the union of batches.

    Args:
      batches: statistics of each, by name.
      weights: [batches], >= 0, their sizes.
      mean_of: from the name of a variance to that of its mean; None for what is averaged.

    Raises:
      UsageError: a variance has no mean among the statistics.

    >>> halves = [{"mean": np.array(0.0), "var": np.array(1.0)}, {"mean": np.array(4.0)}]
    >>> halves[1]["var"] = np.array(1.0)
    >>> {name: float(x) for name, x in pooled(halves, np.array([1, 1]), mean_beside).items()}
    {'mean': 2.0, 'var': 5.0}
    """

    def average(values: Sequence[np.ndarray]) -> np.ndarray:
        return np.average(np.stack(values), axis=0, weights=weights)

    found = {}
    for name in batches[0]:
        mean = mean_of(name)
        values = [batch[name] for batch in batches]
        if mean is not None:
            if mean not in batches[0]:
                raise UsageError(
                    f"the variance {name} has no mean: {mean} is not among the statistics "
                    f"({', '.join(batches[0])}); give them in pairs: mean_of={{variance: mean}}.get"
                )
            means = [batch[mean] for batch in batches]
            center = average(means)
            values = [x + np.square(m - center) for x, m in zip(values, means, strict=True)]
        found[name] = average(values)
    return found
