"""The backends: each is one module or folder beside this one, found by its name when asked for.

Other packages may bring more: an entry point of the group `sr_deploy.backends` names a backend and the module that
holds its `BACKEND`. No library of a backend is imported here.
"""

from __future__ import annotations

import importlib
from functools import cache

from sr_deploy.backends.choice import PRECISIONS, BackendChoice
from sr_deploy.backends.description import Artifact, Backend, DeviceKind, EngineBuilder
from sr_deploy.errors import InputError
from sr_deploy.plugins import find_modules

_NO_BACKENDS = ("builders", "choice", "description", "registry")


@cache
def list_backends() -> tuple[Backend, ...]:
    """All backends, in the order of lists.

    Raises:
        InputError: one calls itself otherwise than its module or entry point is called.
    """
    found = []
    modules = find_modules("sr_deploy.backends", "sr_deploy.backends", exclude=_NO_BACKENDS, separator="-")
    for name, module in modules.items():
        backend: Backend = importlib.import_module(module).BACKEND
        if backend.name != name:
            raise InputError(
                f"{module}.BACKEND has the name {backend.name!r}, and its entry point {name!r}; rename one"
            )
        found.append(backend)
    return tuple(sorted(found, key=lambda one: (one.order, one.name)))


def backend_names() -> tuple[str, ...]:
    """Names of all backends, in the order of lists."""
    return tuple(one.name for one in list_backends())


def find_backend(name: str) -> Backend | None:
    """The backend of that name; None if there is none."""
    return next((one for one in list_backends() if one.name == name), None)


def get_backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        InputError: there is none; the message lists those known.
    """
    backend = find_backend(name)
    if backend is None:
        raise InputError(f"unknown backend {name!r}; known: {', '.join(backend_names())}")
    return backend


def get_reference(artifact: Artifact) -> Backend:
    """The backend that others which run the same kind of file are compared with: `weights` or `graph`."""
    return next(one for one in list_backends() if one.is_reference and one.artifact == artifact)


def name_float64() -> str:
    """How certificates call the reference in float64, which no runner computes in: `torch:fp64`."""
    return f"{get_reference('weights').name}:fp64"


def list_for_auto(device: DeviceKind) -> tuple[Backend, ...]:
    """The backends that `--backend auto` chooses among on a kind of device, in the order of their ranks."""
    able = (one for one in list_backends() if device in one.auto)
    return tuple(sorted(able, key=lambda one: one.auto[device].rank))


def builder_names() -> tuple[str, ...]:
    """Names of the backends that engines are built for."""
    return tuple(one.name for one in list_backends() if one.builder is not None)


def get_builder(name: str) -> EngineBuilder:
    """What builds the engines of a backend.

    Raises:
        InputError: it builds none; the message lists those that do.
    """
    backend = find_backend(name)
    if backend is None or backend.builder is None:
        raise InputError(f"no engines are built for {name!r}; they are for: {', '.join(builder_names())}")
    return backend.builder


def list_mixed() -> tuple[BackendChoice, ...]:
    """Every choice of INT8 with the rest in a faster type than FP32."""
    return tuple(choice for one in list_backends() for choice in one.mixed)


def list_choices() -> list[BackendChoice]:
    """Every backend in every precision, and INT8 with a faster rest behind plain INT8, runnable or not."""
    found = []
    for backend in list_backends():
        for precision in PRECISIONS:
            found.append(BackendChoice(backend.name, precision))
            found += [choice for choice in backend.mixed if choice.precision == precision]
    return found


def parse_backend(text: str) -> BackendChoice:
    """Read `NAME`, `NAME:PRECISION` or `openvino:int8+bf16`; without a precision it is fp32.

    Raises:
        InputError: unknown backend or precision; the message lists those known.
    """
    mixed = {str(choice): choice for choice in list_mixed()}
    if text in mixed:
        return mixed[text]
    name, colon, precision = text.partition(":")
    backend = get_backend(name)
    if not colon:
        return BackendChoice(backend.name)
    for known in PRECISIONS:
        if precision == known:
            return BackendChoice(backend.name, known)
    more = "".join(f", and {choice}" for choice in mixed)
    raise InputError(f"unknown precision {precision!r} in {text!r}; known: {', '.join(PRECISIONS)}{more}")
