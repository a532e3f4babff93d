"""The bundled networks: Linen modules from images [n, h, w, c] to logits [n, classes].

A convolution ``NAME`` has its kernel at ``.../NAME/kernel``; the BatchNorm that alone reads its
output, if there is one, is ``.../NAME_norm``. No other BatchNorm is named so. The dense layer is
``head``.
"""

from bbo.models.create import create_model, kept_channels
from bbo.models.layers import Noise

__all__ = ["Noise", "create_model", "kept_channels"]
