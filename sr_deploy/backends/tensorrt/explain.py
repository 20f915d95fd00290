"""Why a build failed, in one plain line, from what the builder left behind."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from types import ModuleType
from typing import Any

from sr_deploy.backends.tensorrt.progress import PROGRESS_MARK
from sr_deploy.bundle import Profile
from sr_deploy.engine.request import EngineRequest

FAILURE_MARK = "sr-deploy-failure: "
"""Begins the line of the worker's output that says why a build failed."""

_LAST_LINES = 3
_WORKSPACE = re.compile(r"within workspace limit|insufficient workspace|larger workspace", re.IGNORECASE)
_MEMORY = re.compile(
    r"out of memory|OutOfMemory|bad_alloc|MemoryError|insufficient memory|cannot allocate|allocation failed",
    re.IGNORECASE,
)
_VOLUME = re.compile(r"Profile k?MAX values are not self-consistent.*", re.IGNORECASE)


def explain_failure(returncode: int, output: str, request: EngineRequest) -> str:
    """Why a worker failed, in one line: what it said itself, or else the signal and its last lines.

    Args:
        returncode: of its process; negative: the signal that ended it.
        output: all that it wrote.
        request: what it was to build.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip() and not line.startswith(PROGRESS_MARK)]
    said = [line.removeprefix(FAILURE_MARK) for line in lines if line.startswith(FAILURE_MARK)]
    errors = [re.sub(r"^\[[EF!]\]\s*", "", line) for line in lines if re.match(r"^\[[EF]\]", line)]
    last = " | ".join((errors or lines)[-_LAST_LINES:])
    # Kernels that were tried and left out for want of memory are only warned of: the build went on without them.
    final = "\n".join([*errors, *said, *(line for line in lines if not re.match(r"^\[[A-Z!]\]", line))])
    if _WORKSPACE.search(final):
        limit = request.options.workspace_gib
        given = "the workspace" if limit is None else f"a workspace of {limit:g} GiB"
        return (
            f"no kernel fits {given}; raise --workspace (left out: all there is), or {_lower_shape(request)} ({last})"
        )
    if _MEMORY.search(final):
        return f"out of memory; {_lower_shape(request)} ({last})"
    if said:
        return f"{said[-1]} ({last})" if errors else said[-1]
    if returncode < 0:
        name = signal.Signals(-returncode).name
        hint = f", perhaps for want of memory ({_lower_shape(request)})" if name == "SIGKILL" else ""
        return f"the builder was ended by {name}{hint}; its last lines: {last or 'none'}"
    return f"the builder ended with code {returncode}; its last lines: {last or 'none'}"


def find_oversized_profile(output: str, request: EngineRequest) -> str | None:
    """What a builder only warns of: a largest shape beyond its limits, with which the engine could not run; or None."""
    found = _VOLUME.search(output)
    return f"a tensor is beyond TensorRT's limit; {_lower_shape(request)} ({found.group()})" if found else None


def describe_parse_errors(sdk: ModuleType, graph: Path) -> str | None:
    """What the SDK's parser does not take of a graph, with the ONNX nodes; None if it takes all or says nothing."""
    builder = sdk.Builder(sdk.Logger(sdk.Logger.ERROR))
    flags = [kind for name, kind in sdk.NetworkDefinitionCreationFlag.__members__.items() if name == "STRONGLY_TYPED"]
    network = builder.create_network(sum(1 << int(flag) for flag in flags))
    parser = sdk.OnnxParser(network, sdk.Logger(sdk.Logger.ERROR))
    if parser.parse_from_file(str(graph)):
        return None
    errors = [_describe_error(parser.get_error(index)) for index in range(parser.num_errors)]
    return "; ".join(dict.fromkeys(errors)) or None


def _describe_error(error: Any) -> str:  # noqa: ANN401
    reason = " ".join(str(error.desc()).split())
    if not error.node_operator():
        return reason
    name = error.node_name() or f"number {error.node()}"
    return f"it does not take the ONNX node {name!r} ({error.node_operator()}): {reason}"


def _lower_shape(request: EngineRequest) -> str:
    def pixels(profile: Profile) -> int:
        return profile.max.n * profile.max.h * profile.max.w

    largest = max(request.profiles, key=pixels)
    return f"lower the largest shape, {largest.max} of profile {largest.name!r}, and upscale in tiles"
