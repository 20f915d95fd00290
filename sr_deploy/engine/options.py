"""Which of a builder's settings each SDK has."""

from __future__ import annotations

from sr_deploy.backends.registry import get_builder
from sr_deploy.bundle import EngineOptions
from sr_deploy.errors import BackendError, InputError
from sr_deploy.gpus import visible_gpus


def check_options(backend: str, options: EngineOptions) -> None:
    """Refuse settings that an SDK does not have, by name.

    Raises:
        InputError: the SDK has no such setting; the message says what serves instead.
        BackendError: the SDK has it, and this machine lacks what it takes.
    """
    builder = get_builder(backend)
    for name, instead in builder.absent_options.items():
        if getattr(options, name):
            raise InputError(f"{backend} has no {option_of(name)}: {instead}")
    for name in builder.options_on_gpu:
        if getattr(options, name) and not visible_gpus():
            raise BackendError(
                f"{backend} builds engines with {option_of(name)} only where there is an RTX GPU, and none is "
                "visible here (the driver shows none); leave it out, or build on the machine that will run the engine"
            )


def option_of(name: str) -> str:
    """How the command line spells a setting, as in `--strip-weights`."""
    return "--workspace" if name == "workspace_gib" else f"--{name.replace('_', '-')}"
