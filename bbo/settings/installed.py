"""The package as it is installed: its name there, where its programs lie, what they are called.

In a checkout, also one that is installed (``pip install -e .``), ``experiments`` and ``launch`` lie
beside ``bbo``. A wheel has them in ``bbo/_programs``, so that an environment that it is installed
in gets no modules of such common names; there, console scripts and ``python -m bbo`` find them.
"""

import pathlib

NAME = "batch-bridgeout"
"""On PyPI, where ``bbo`` is the name of another package."""
INSIDE = pathlib.Path(__file__).parents[1] / "_programs"


def in_wheel() -> bool:
    """Whether the programs lie within the package."""
    return INSIDE.is_dir()


def programs_folder() -> pathlib.Path:
    """The folder from which ``experiments`` and ``launch`` are imported."""
    return INSIDE if in_wheel() else INSIDE.parents[1]


def with_names_here(text: str) -> str:
    """A text in which programs are called by the commands that start them here.

    Args:
      text: with ``python -m experiments.NAME`` and ``python -m launch.NAME``, which a wheel has as
        the console scripts ``bbo-NAME`` and ``bbo-launch NAME``.
    """
    if not in_wheel():
        return text
    text = text.replace("python -m launch.", "bbo-launch ")
    return text.replace("python -m experiments.", "bbo-")


def how_to_install(*modules: str) -> str:
    """The command that adds modules which only parts of the package need, in a checkout too.

    jax2onnx comes without its requirements: it would take orbax back, for what is not needed here.

    >>> how_to_install("onnxruntime")
    "pip install 'batch-bridgeout[export]'"
    >>> how_to_install("onnxruntime", "jax2onnx")
    "pip install 'batch-bridgeout[export]' && pip install --no-deps 'jax2onnx>=0.17'"
    """
    extra = {"torch": "bench", "libtpu": "tpu"}.get(modules[0], "export")
    alone = " && pip install --no-deps 'jax2onnx>=0.17'" if "jax2onnx" in modules else ""
    return f"pip install '{NAME}[{extra}]'{alone}"
