"""The package; settings of tools are in pyproject.toml."""

import pathlib

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent

setup(
    name="bbo",
    version="0.1.0",
    description="Batch Bridgeout in JAX: train networks whose filters can be thrown away",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    package_data={
        "bbo": ["py.typed"],
        "experiments": ["published/*.csv"],
        "launch.slurm": ["job.sh"],
    },
    packages=find_packages(include=["bbo*", "experiments*", "launch*"]),
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
            "equinox>=0.13",
            "kubeflow-trainer-api>=2.1",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "pyyaml>=6",
            # What jax2onnx needs, which the Makefile adds: its bound on orbax is for nothing here.
            "flatbuffers>=24",
            "dm-pix>=0.4.4",
            "onnx>=1.20.1",
            "onnx-ir>=0.2.1",
            "onnxruntime>=1.24.1",
        ],
        "dev": ["ruff>=0.12", "pyright[nodejs]>=1.1.400"],
        "export": ["flatbuffers>=24", "jax2onnx>=0.17", "onnxruntime>=1.24.1"],
        "bench": ["torch>=2.6"],
        "notebook": ["jupyterlab>=4"],
        "cuda13": ["jax[cuda13]>=0.10"],
        "tpu": ["jax[tpu]>=0.10"],
        "k8s": ["jax[k8s]>=0.10"],
    },
)
