"""Which of a builder's settings each SDK has."""

from __future__ import annotations

from sr_deploy.backends import Backend
from sr_deploy.bundle import EngineOptions
from sr_deploy.errors import BackendError, InputError
from sr_deploy.gpus import visible_gpus

# As its bindings and its builder say (1.7): the calls exist, warn that they do nothing, or miss a library.
_ABSENT_FROM_RTX = {
    "version_compatible": "its engines run on the release that built them alone; build them again, it takes seconds",
    "hardware_compatible": "name the GPUs with --compute-capability instead; left out, it builds for all that it knows",
}
_NEED_A_GPU_WITH_RTX = ("strip_weights", "refittable")


def check_options(backend: Backend, options: EngineOptions) -> None:
    """Refuse settings that an SDK does not have, by name.

    Raises:
        InputError: the SDK has no such setting; the message says what serves instead.
        BackendError: the SDK has it, and this machine lacks what it takes.
    """
    if backend != "tensorrt-rtx":
        return
    for name, instead in _ABSENT_FROM_RTX.items():
        if getattr(options, name):
            raise InputError(f"tensorrt-rtx has no {option_of(name)}: {instead}")
    for name in _NEED_A_GPU_WITH_RTX:
        if getattr(options, name) and not visible_gpus():
            raise BackendError(
                f"tensorrt-rtx builds engines with {option_of(name)} only where there is an RTX GPU, and none is "
                "visible here (the driver shows none); leave it out, or build on the machine that will run the engine"
            )


def option_of(name: str) -> str:
    """How the command line spells a setting, as in `--strip-weights`."""
    return "--workspace" if name == "workspace_gib" else f"--{name.replace('_', '-')}"
