"""Without noise: the penalty on the loss that Bridgeout's noise stands for, itself."""

import jax
import jax.numpy as jnp

from bbo import trees
from bbo.compaction.channels import Channels
from bbo.noise.bridgeout import EPSILON, _check_q
from bbo.noise.regulariser import Regulariser, units_shape
from bbo.noise.selection import Where, selected_kernels
from bbo.settings.catalog import UNITS
from bbo.trees import wide
from bbo.types import Array, Params, require, require_one_of


def lq_penalty(
    *,
    penalty: float | Array,
    q: float,
    draw_unit: str = "weight",
    on: trees.Selector | None = None,
    channels: Channels | None = None,
) -> Regulariser:
    """``penalty * sum_u |w_u|**q`` on the loss, with the L2 norm of each unit u: no noise at all.

    Over single weights it is what Batch Bridgeout is in expectation in a linear model, whose inputs
    are then of equal size; over filters and with ``q = 1`` it is the group lasso. 1e-12 is added to
    each squared norm, so that the slope at zero is zero.

    Args:
      penalty: factor, > 0.
      q: of the norm, in (0, 8].
      draw_unit: the units: ``weight``, ``kernel`` (2-D) or ``filter``.
      on: which parameters, see ``Where``.
      channels: of the network, in whatever layout, see ``Where``.

    References: arXiv 2009.10893, section III, for the penalty of the noise.

    >>> params = {"kernel": jnp.full((1, 1, 4, 2), 0.5), "bias": jnp.ones(2)}
    >>> noise = lq_penalty(penalty=0.1, q=1.0, draw_unit="filter", on="kernel")
    >>> f"{noise.penalty(params):.4f}", noise.perturbs_weights
    ('0.2000', False)
    """
    _check_q(q)
    require_one_of(UNITS, "draw_unit", draw_unit)
    if not isinstance(penalty, jax.Array):
        require(penalty > 0, "penalty", penalty, "> 0")

    def of_kernel(w: Array) -> Array:
        shape = units_shape(w, draw_unit)
        axes = tuple(axis for axis, length in enumerate(shape) if length != w.shape[axis])
        square = jnp.sum(jnp.square(wide(w)), axis=axes)
        return jnp.sum(jnp.power(square + EPSILON, q / 2))

    def on_loss(params: Params) -> Array:
        kernels = selected_kernels(params, Where(on, channels))
        return penalty * sum(jnp.sum(jax.vmap(of_kernel)(stacked)) for stacked in kernels)

    return Regulariser(penalty=on_loss)
