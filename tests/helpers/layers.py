"""Layers in plain jax, of which tests build networks."""

from jax import lax


def conv(x, kernel, stride=1, groups=1):
    """Images ``[n, h, w, in]`` and a kernel ``[h, w, in / groups, out]``, padded."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
