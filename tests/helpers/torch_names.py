"""The networks of the golden values: their names in torch, our names, and their parameters."""

import json
import re
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from flax import traverse_util

from bbo.settings.sections import ModelConfig

NETWORKS = ("resnet34_c10", "vgg11_c10", "wrn10-2_c10")
RESNET_NORMS = {"bn1": "stem_norm"}, {"bn1": "conv1_norm", "bn2": "conv2_norm"}
WIDE_NORMS = {"bn1": "final_norm"}, {"bn1": "pre_norm", "bn2": "conv1_norm"}
OUTSIDE = {"conv1": "stem", "linear": "head"}
INSIDE = {"shortcut.0": "shortcut", "shortcut.1": "shortcut_norm"}


class Golden(NamedTuple):
    """One network of ``nets.json``."""

    record: dict
    """``name``, ``seed``, ``params`` and ``buffers`` (pairs of name and shape), ``eligible``."""
    arrays: dict[str, np.ndarray]
    """Inputs and outputs, by name."""

    @property
    def config(self) -> ModelConfig:
        name = self.record["name"].partition("_c")[0].replace("-", "_")
        model = f"thin_{name}" if name.startswith("resnet") else name
        return ModelConfig(model=model, conv_bias=True, final_norm_momentum=0.1)

    @property
    def num_classes(self) -> int:
        return int(self.record["name"].partition("_c")[2])

    @property
    def images(self) -> np.ndarray:
        """[n, h, w, c]."""
        return self.arrays["x"].transpose(0, 2, 3, 1)


def load(golden_dir: Path, name: str) -> Golden:
    """The network of that name."""
    records = json.loads((golden_dir / "nets.json").read_text())
    (index,) = (i for i, record in enumerate(records) if record["name"] == name)
    with np.load(golden_dir / "nets.npz") as file:
        mine = [key for key in file.files if key.startswith(f"{index}/")]
        return Golden(records[index], {key.partition("/")[2]: file[key] for key in mine})


def our_names(golden: Golden) -> dict[str, str]:
    """Torch's name of each parameter and statistic -> ours, ``params/.../kernel``, in order."""
    shapes = dict(golden.record["params"] + golden.record["buffers"])
    if golden.config.model.startswith("vgg"):
        modules = _vgg_modules(shapes)
    else:
        norms = WIDE_NORMS if golden.config.model.startswith("wrn") else RESNET_NORMS
        modules = {name: _residual_module(name, *norms) for name in _modules(shapes)}
    names = {}
    for name, shape in shapes.items():
        module, _, leaf = name.rpartition(".")
        collection, ours = {
            "weight": ("params", "scale" if len(shape) == 1 else "kernel"),
            "bias": ("params", "bias"),
            "running_mean": ("batch_stats", "mean"),
            "running_var": ("batch_stats", "var"),
        }[leaf]
        names[name] = f"{collection}/{modules[module]}/{ours}"
    return names


def _modules(shapes: dict) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[0] for name in shapes))


def _vgg_modules(shapes: dict) -> dict[str, str]:
    """The features are numbered through all layers; a convolution and its BatchNorm adjoin."""
    modules = {"linear": "head"}
    convolutions = [name for name in _modules(shapes) if len(shapes[f"{name}.weight"]) == 4]
    for number, name in enumerate(convolutions, start=1):
        modules[name] = f"conv{number}"
        modules[f"features.{int(name.partition('.')[2]) + 1}"] = f"conv{number}_norm"
    return modules


def _residual_module(name: str, outside: dict, inside: dict) -> str:
    block = re.fullmatch(r"layer(\d+)\.(\d+)\.(.+)", name)
    if block is None:
        return (OUTSIDE | outside)[name]
    stage, index, layer = block.groups()
    return f"stage{stage}_block{index}/{(INSIDE | inside).get(layer, layer)}"


def from_torch(array: np.ndarray) -> np.ndarray:
    """Layout: OIHW -> HWIO, [out, in] -> [in, out], vectors as they are."""
    return array.transpose({4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[array.ndim])


def draw_torch(golden: Golden) -> dict[str, np.ndarray]:
    """Parameters and statistics by torch's names, in torch's layout, float64."""
    named = golden.record["params"] + golden.record["buffers"]
    return {name: _draw(golden.record["seed"], name, shape) for name, shape in named}


def _draw(seed: int, name: str, shape: list[int]) -> np.ndarray:
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if len(shape) > 1:
        gain = 2 if len(shape) == 4 else 1
        return generator.standard_normal(shape) * np.sqrt(gain / np.prod(shape[1:]))
    if name.endswith(("running_var", "weight")):
        return generator.uniform(0.5, 1.5, shape)
    return generator.standard_normal(shape) * 0.1


def draw_variables(golden: Golden) -> dict:
    """The same as our ``{"params": ..., "batch_stats": ...}``."""
    drawn, names = draw_torch(golden), our_names(golden)
    return traverse_util.unflatten_dict(
        {names[name]: from_torch(array) for name, array in drawn.items()}, sep="/"
    )
