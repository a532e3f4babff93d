"""The package; settings of tools are in pyproject.toml."""

import pathlib
import sys

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
PROGRAMS = find_packages(include=["experiments*", "launch*"])
# A wheel has the programs within bbo, see bbo/settings/installed.py.
PREFIX = "" if "editable_wheel" in sys.argv else "bbo._programs."
EXPORT = [
    "flatbuffers>=24",
    "onnxruntime>=1.24.1",
    # What jax2onnx needs; itself it is installed without, as it holds orbax back.
    "dm-pix>=0.4.4",
    "equinox>=0.13",
    "onnx>=1.20.1",
    "onnx-ir>=0.2.1",
]

setup(
    name="batch-bridgeout",
    version="0.1.0",
    description="Batch Bridgeout in JAX: train networks whose filters can be thrown away",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The bbo developers",
    project_urls={"Paper": "https://arxiv.org/abs/2009.10893"},
    keywords="jax flax pruning sparsity regularisation dropout compression",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["bbo*"]) + [PREFIX + name for name in PROGRAMS],
    package_dir={PREFIX + name: name.replace(".", "/") for name in PROGRAMS},
    package_data={
        "bbo": ["py.typed"],
        f"{PREFIX}experiments": ["published/*.csv"],
        f"{PREFIX}launch.slurm": ["job.sh"],
    },
    entry_points={
        "console_scripts": [
            f"bbo-{name}=bbo.__main__:{name}"
            for name in ("run", "prepare", "report", "compact", "benchmark", "scale", "launch")
        ]
    },
    install_requires=[
        "absl-py>=2.1",
        "flax>=0.12",
        "jax>=0.10",
        "jaxlib>=0.10",
        "matplotlib>=3.9",
        "numpy>=2.0",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.11.30",
        "pandas>=2.2",
        "scikit-learn>=1.5",
        "scipy>=1.13",
        "tensorboardX>=2.6.2",
        "tqdm>=4.66",
        # TFDS without TensorFlow: it imports the next four itself and declares none of them
        # for every platform; protobuf is bounded by the code that it ships generated.
        "tensorflow-datasets>=4.9.10",
        "array_record>=0.8",
        "importlib_resources>=6.4",
        "pillow>=10",
        "protobuf>=6.31.1",
    ],
    extras_require={
        "test": [
            *EXPORT,
            "hypothesis>=6.100",
            "kubeflow-trainer-api>=2.1",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "pyyaml>=6",
            "setuptools>=77",
        ],
        "dev": ["ruff>=0.12", "pyright[nodejs]>=1.1.400"],
        "export": EXPORT,
        "bench": ["torch>=2.6"],
        "notebook": ["jupyterlab>=4"],
        "cuda13": ["jax[cuda13]>=0.10"],
        "tpu": ["jax[tpu]>=0.10"],
        "k8s": ["jax[k8s]>=0.10"],
    },
)
