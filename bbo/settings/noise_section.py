"""The section of a configuration that says what noise is put on a network, and when."""

import dataclasses
from typing import Any

from bbo.settings.catalog import CLEAN_IN, DRAW_BITS, REGULARISERS, UNITS, noise_settings
from bbo.settings.fields import check_choices, check_pattern, check_range, setting
from bbo.types import UsageError


@dataclasses.dataclass(frozen=True)
class NoiseConfig:
    """The regulariser: what noise is put on the weights or activations while training."""

    noise: str = setting("batch_bridgeout", "regulariser", one_of=REGULARISERS)
    rate: float = setting(0.3, "probability of dropping, in (0, 1)")
    q: float = setting(
        1.5, "norm of the penalty that the bridgeouts, sparseout and lq_penalty apply, > 0"
    )
    target_fraction: float = setting(
        0.75,
        "bridgeouts, targeted_dropout: only this weakest share of the units is perturbed; "
        "nested_dropping: the largest share of filters that is dropped; in (0, 1]",
    )
    removed_shares: tuple[float, ...] = setting(
        (),
        "nested_dropping: the shares that are dropped, one drawn at each step, by really removing "
        "the filters, which spares their time; increasing, in (0, 1); empty: any share up to "
        "target_fraction, by zeros",
    )
    target_unit: str = setting(
        "kernel",
        "what is ranked for targeting: single weights or 2-D kernels within their filter, "
        "or whole filters within their layer",
        one_of=UNITS,
    )
    nested: bool = setting(
        False,
        "scale_free_bridgeout: draw the share that is perturbed at each step, "
        "for all layers, evenly up to target_fraction: the weaker, the more often perturbed",
    )
    draw_unit: str = setting(
        "weight",
        "scale_free_bridgeout: what has a draw of its own at each step; lq_penalty: what the norms "
        "are of",
        one_of=UNITS,
    )
    activation_target_fraction: float = setting(
        1.0, "dropout, sparseout: only this weakest share of channel maps is perturbed, in (0, 1]"
    )
    draw_bits: int = setting(
        32,
        "dropout, sparseout: random bits of a draw, 32 or 8; 8 round rate to a multiple of 1/256 "
        "and take less time",
    )
    shakeout_c: float = setting(0.1, "strength of shakeout's constant part, >= 0")
    penalty: float = setting(1e-4, "lq_penalty: factor on the sum of the norms to the q, > 0")
    noise_on: str = setting(
        "", "regular expression on parameter names; empty: every spatial (not 1x1) convolution"
    )
    noise_from: float = setting(
        0.0, "share of the training before which there is no noise, in [0, 1)"
    )
    ramp_up: float = setting(
        0.0, "share of the training over which the noise grows from nothing (linear), in [0, 1]"
    )
    ramp_down: float = setting(
        0.0, "share of the training over which it shrinks to nothing at the end, in [0, 1]"
    )
    clean_share: float = setting(
        0.0, "share of the training that the network without noise gets, see clean_in, in [0, 1)"
    )
    clean_in: str = setting(
        "steps",
        "steps: so many of the steps, drawn at random, are without noise; each_step: each step "
        "learns from both networks, which share its loss, in two passes. "
        "Running statistics are then those of the network without noise",
        one_of=CLEAN_IN,
    )
    distill: float = setting(
        0.0,
        "share of the noisy network's target that is what the network without noise says "
        "(in-place distillation); costs a forward pass in each noisy step, in [0, 1]",
    )
    ascent: float = setting(
        0.0,
        "length of a step against the gradient of the network without noise before the noisy "
        "one's gradient is taken (CrAM), with clean_in each_step, >= 0",
    )

    def __post_init__(self):
        check_choices(self)
        check_range(
            self,
            rate=(lambda v: 0 < v < 1, "in (0, 1), for instance 0.3; no noise is --noise=none"),
            q=(lambda v: 0 < v <= 8, "in (0, 8]"),
            target_fraction=(lambda v: 0 < v <= 1, "in (0, 1]"),
            removed_shares=(
                lambda v: all(0 < a < 1 for a in v) and list(v) == sorted(set(v)),
                "increasing numbers in (0, 1), for instance 0.5,0.75; or empty",
            ),
            activation_target_fraction=(lambda v: 0 < v <= 1, "in (0, 1]"),
            draw_bits=(lambda v: v in DRAW_BITS, "32 or 8"),
            shakeout_c=(lambda v: v >= 0, ">= 0"),
            penalty=(lambda v: v > 0, "> 0"),
            noise_from=(lambda v: 0 <= v < 1, "in [0, 1)"),
            ramp_up=(lambda v: 0 <= v <= 1 - self.noise_from, "in [0, 1 - noise_from]"),
            ramp_down=(
                lambda v: 0 <= v <= 1 - self.noise_from - self.ramp_up,
                "in [0, 1 - noise_from - ramp_up]",
            ),
            clean_share=(lambda v: 0 <= v < 1, "in [0, 1)"),
            distill=(lambda v: 0 <= v <= 1, "in [0, 1]"),
            ascent=(lambda v: v >= 0, ">= 0"),
        )
        check_pattern("noise_on", self.noise_on)
        if self.clean_in == "each_step" and self.clean_share == 0:
            raise UsageError(
                "clean_in is each_step, but clean_share is 0; set it to the share of each step's "
                "loss that the network without noise gets, for instance 0.5"
            )
        if self.removes and self.clean_share == 0:
            raise UsageError(
                "the steps of removed_shares see parts of the network only; set clean_share, what "
                "the whole one gets, above 0, for instance to 0.5"
            )
        if self.ascent and self.clean_in != "each_step":
            raise UsageError(
                "ascent needs the gradient of the network without noise; set clean_in to "
                "each_step and clean_share above 0, for instance to 0.5"
            )
        draws_bytes = self.draw_bits == 8 and "draw_bits" in REGULARISERS[self.noise]
        if draws_bytes and not 0 < round(256 * self.rate) < 256:
            raise UsageError(
                f"rate is {self.rate:g}, which draws of 8 bits round to {round(self.rate)}; set "
                "draw_bits to 32"
            )
        if self.noise == "bridgeout" and (self.clean_in == "each_step" or self.distill):
            raise UsageError(
                "bridgeout draws noise by example, which no network without noise can stand "
                "beside; set clean_in to steps and distill to 0"
            )

    @property
    def removes(self) -> bool:
        """Whether noisy steps train networks from which filters were really removed."""
        return self.noise == "nested_dropping" and bool(self.removed_shares)

    @property
    def effective(self) -> dict[str, Any]:
        """The settings that have an effect: the regulariser's own; how and when, if set."""
        plain, own = NoiseConfig(), {*REGULARISERS[self.noise]} - {"draw_bits"}
        without = "target_fraction" if self.removes else "removed_shares"
        return {
            name: getattr(self, name)
            for name in noise_settings(self.noise)
            if name != without and (name in own or getattr(self, name) != getattr(plain, name))
        }
