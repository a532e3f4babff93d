"""What a human sees in the published networks, counted on their descriptions."""

from collections.abc import Callable
from typing import NamedTuple

import published_networks_dicts as dicts
import published_networks_linen as linen
import published_networks_modules as modules
from published_networks import Published


class ByHand(NamedTuple):
    """A network and what can be done with it."""

    make: Callable[[], Published]
    channels: dict[str, int]
    """How many channels there are of each kind that a human could remove one by one. Each kind is
    called by a kernel that puts it out."""
    filters: dict[str, int]
    """On which axis each kernel has its outputs, if these can be removed."""
    error: float
    """How much of the mean square error of outputs a fit may leave: little more than it does."""
    beyond: int = 0
    """How many channels more a human could remove, of kinds that the program lets stay."""
    left: tuple[str, ...] = ()
    """Of the filters, those that no fit changes."""


RESNET = ByHand(
    linen.squeeze_excite_resnet,
    {  # all that is added is one stream; a gate belongs to what it scales
        "params/block1/conv2/kernel": 8,
        "params/block1/conv1/kernel": 8,
        "params/block1/se/reduce/kernel": 4,
        "params/block2/conv2/kernel": 16,
        "params/block2/conv1/kernel": 16,
        "params/block2/se/reduce/kernel": 8,
    },
    {"params/conv_init/kernel": 3, "params/block2/conv_proj/kernel": 3}
    | {f"params/block{i}/conv{k}/kernel": 3 for i in (1, 2) for k in (1, 2)}
    | {f"params/block{i}/se/{name}/kernel": 1 for i in (1, 2) for name in ("reduce", "expand")},
    error=0.002,
)
CONVNEXT = ByHand(
    modules.convnext,
    {  # two streams, each with its depthwise convolution and norms, and the wide layers
        "stage1/dwconv/kernel": 8,
        "stage1/pwconv1/kernel": 32,
        "down/kernel": 16,
        "stage2/pwconv1/kernel": 64,
    },
    {"stem/kernel": 3, "down/kernel": 3}
    | {f"stage{i}/dwconv/kernel": 3 for i in (1, 2)}
    | {f"stage{i}/pwconv{k}/kernel": 1 for i in (1, 2) for k in (1, 2)},
    error=0.001,
    left=("stage1/dwconv/kernel", "stage2/dwconv/kernel"),
)
VGG_CHANNELS = {
    "features/layers/0/weight": 8,
    "features/layers/2/weight": 8,
    "features/layers/5/weight": 16,
    "features/layers/7/weight": 16,  # each read by the dense layer at four places
    "classifier/layers/0/weight": 32,
}
VGG = ByHand(modules.vgg, VGG_CHANNELS, dict.fromkeys(VGG_CHANNELS, 0), error=1e-4)
MOBILE = "params/mobilenet_v1/~/"
MOBILENET = ByHand(
    dicts.mobilenet,
    {  # a depthwise convolution puts out what it reads
        f"{MOBILE}initial_conv/w": 8,
        f"{MOBILE}mobilenet_v1_block_0/~/pointwise_conv/w": 16,
        f"{MOBILE}mobilenet_v1_block_1/~/pointwise_conv/w": 24,
    },
    {f"{MOBILE}initial_conv/w": 3}
    | {
        f"{MOBILE}mobilenet_v1_block_{i}/~/{name}_conv/w": 3
        for i in (0, 1)
        for name in ("depthwise", "pointwise")
    },
    error=0.01,
    left=tuple(f"{MOBILE}mobilenet_v1_block_{i}/~/depthwise_conv/w" for i in (0, 1)),
)
VIT = ByHand(
    linen.vision_transformer,
    {"params/patch_embed/kernel": 16}  # the stream, with the token and the positions
    | {f"params/blocks_{i}/attn/qkv/kernel": 4 for i in (0, 1)}  # heads
    | {f"params/blocks_{i}/fc1/kernel": 32 for i in (0, 1)},
    {"params/patch_embed/kernel": 3}
    | {
        f"params/blocks_{i}/{name}/kernel": 1
        for i in (0, 1)
        for name in ("attn/qkv", "attn/proj", "fc1", "fc2")
    },
    error=0.001,
    beyond=2 * (4 + 4),  # numbers of all queries with their keys, and of all values; heads go first
)
DCGAN = ByHand(
    linen.generator,
    {  # a channel is sixteen outputs of the dense layer
        "params/Dense_0/kernel": 16,
        "params/ConvTranspose_0/kernel": 8,
        "params/ConvTranspose_1/kernel": 4,
    },
    {
        "params/Dense_0/kernel": 1,
        "params/ConvTranspose_0/kernel": 3,
        "params/ConvTranspose_1/kernel": 3,
    },
    error=0.35,
)
UNET_CHANNELS = {
    f"{part}/conv{k}/weight": width
    for part, width in {"down1": 4, "down2": 8, "middle": 16, "merge2": 8, "merge1": 4}.items()
    for k in (1, 2)
} | {"up2/weight": 8, "up1/weight": 4}  # what stands beside each other goes apart
UNET = ByHand(modules.unet, UNET_CHANNELS, dict.fromkeys(UNET_CHANNELS, 0), error=0.15)
GATES = tuple(f"params/GRUCell_0/{name}/kernel" for name in ("hn", "hr", "hz", "in", "ir", "iz"))
GRU = ByHand(
    linen.recurrent_classifier,
    {"params/Embed_0/embedding": 8, "params/GRUCell_0/hn/kernel": 12, "params/Dense_1/kernel": 6},
    dict.fromkeys((*GATES, "params/Dense_1/kernel"), 1),
    error=0.03,
    left=GATES,
)
MAMBA = ByHand(
    dicts.mamba,
    {"layers/0/out_proj": 8}  # the stream, with the table of words that is read at both ends
    | {f"layers/{i}/conv1d/weight": 16 for i in (0, 1)}  # what goes in, its step and its gate
    | {f"layers/{i}/x_proj": 4 for i in (0, 1)}  # states, each moved by a b and read by a c
    | {f"layers/{i}/x_proj#2": 2 for i in (0, 1)},  # the rank of the step
    {f"layers/{i}/conv1d/weight": 2 for i in (0, 1)}
    | {
        f"layers/{i}/{name}": 1
        for i in (0, 1)
        for name in ("in_proj", "x_proj", "dt_proj", "out_proj")
    },
    error=0.9,
    left=("layers/0/conv1d/weight", "layers/1/conv1d/weight"),
)
DENSENET_CHANNELS = {
    f"block{i}/{k}/conv{j}/kernel": width
    for i in (1, 2)
    for k in (0, 1)
    for j, width in ((1, 8), (2, 4))
} | {"conv0/kernel": 8, "trans_conv/kernel": 8}
DENSENET = ByHand(
    modules.densenet, DENSENET_CHANNELS, dict.fromkeys(DENSENET_CHANNELS, 3), error=0.005
)
BY_HAND = {
    "Linen ResNet with squeeze-and-excite": RESNET,
    "NNX ConvNeXt": CONVNEXT,
    "Equinox VGG": VGG,
    "Haiku MobileNet": MOBILENET,
    "Linen ViT": VIT,
    "Linen DCGAN": DCGAN,
    "Equinox U-Net": UNET,
    "Linen GRU": GRU,
    "Mamba of a dict": MAMBA,
    "NNX DenseNet": DENSENET,
}
