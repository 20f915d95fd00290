"""A graph that cannot be judged by looking at it, run once on small pictures, in a process that may die of it.

`python -P -m sr_deploy.graph.trial` is the process: a request on its stdin, an answer on its stdout, one line of JSON
each. ONNX Runtime computes. What was learnt is kept for the next time.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from sr_deploy.backends.description import GraphOptions
from sr_deploy.backends.registry import get_reference
from sr_deploy.cache import keep, key_of, read_kept
from sr_deploy.deps import installed_version, require
from sr_deploy.errors import GraphError, one_line
from sr_deploy.files import sha256_of
from sr_deploy.graph.scale import Scale, measure_scale

KIND = "trial"
"""Under which answers are kept."""
_MAX_SECONDS = 60  # on a machine that has other things to do
_MEMORY = 3 * 2**28
"""Bytes beyond what the process has before it loads the graph, and beyond four times the file."""
_LARGE = ((24, 16), (64, 48), (384, 256))


class Trial(BaseModel, frozen=True, extra="forbid"):
    """What is asked of the process."""

    path: str
    dtype: Literal["float32", "float16", "uint8", "uint16"]
    """Of its input; integers come as N x H x W x C."""
    declared: tuple[int | None, int, int | None, int | None]
    """N, C, H and W of its input; None where any is taken."""
    seconds: int = 8
    """Of processor time that it may take; a small picture takes the largest networks one."""


class _Answer(BaseModel, frozen=True, extra="forbid"):
    scale: int
    multiple: int
    smallest: int


def try_graph(trial: Trial, reason: str) -> Scale:
    """Run a graph on small pictures and see how large its outputs are.

    Args:
        trial: which one.
        reason: why that is needed, for messages.

    Raises:
        GraphError: it does not run, takes more than 8 s or 768 MiB, or gives no enlarged image.
    """
    path = Path(trial.path)
    versions = [installed_version(get_reference("graph").package), metadata.version("sr-deploy")]
    key = key_of([sha256_of(path), *versions])
    kept, _ = read_kept(KIND, key, _Answer)
    if kept is None:
        kept = _Answer.model_validate(_ask_process(trial, reason))
        keep(KIND, key, kept)
    return Scale(kept.scale, kept.multiple, kept.smallest)


def _ask_process(trial: Trial, reason: str) -> object:
    environment = os.environ | {"ORT_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "sr_deploy.graph.trial"]
    said = f"{trial.path}: {reason}, so it was tried on small pictures"
    try:
        done = subprocess.run(
            command,
            input=trial.model_dump_json(),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_MAX_SECONDS,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise GraphError(f"{said}, and did not end within {_MAX_SECONDS} s; it is not run here") from error
    if done.returncode:
        raise GraphError(f"{said}, and {_explain_end(trial, done.returncode, done.stderr)}; it is not run here")
    answer: dict[str, object] = json.loads(done.stdout)
    if "error" in answer:
        raise GraphError(f"{said}: {answer['error']}")
    return answer


def _explain_end(trial: Trial, code: int, log: str) -> str:
    import signal

    if code == -getattr(signal, "SIGXCPU", 0):
        return f"took more than {trial.seconds} s of processor time"
    if "bad_alloc" in log or "MemoryError" in log:
        return f"took more than {_MEMORY >> 20} MiB of memory"
    return f"ended the process with {f'signal {-code}' if code < 0 else f'exit code {code}'}"


def _limit_process(trial: Trial) -> None:
    """Bound memory and processor time; systems without such limits have the clock of the parent alone."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + _MEMORY + 4 * Path(trial.path).stat().st_size
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CPU, (trial.seconds, trial.seconds + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _open_runs(trial: Trial) -> Callable[[int, int], tuple[int, ...] | None]:
    """Opens the graph; the function runs a picture of that height and width."""
    import numpy as np

    reference = get_reference("graph")
    assert reference.open_graph is not None
    require(reference.package, "trying a graph")  # before memory is bounded, since its own counts not
    _limit_process(trial)
    graph = reference.open_graph(Path(trial.path), GraphOptions(threads=1))
    n, channels, _, _ = trial.declared
    whole = trial.dtype in ("uint8", "uint16")

    @functools.cache
    def run(h: int, w: int) -> tuple[int, ...] | None:
        pixels = np.random.default_rng(0).random((n or 1, channels, h, w))
        lr = (pixels * 255).transpose(0, 2, 3, 1).astype(trial.dtype) if whole else pixels.astype(trial.dtype)
        try:
            shape = next(iter(graph.run({graph.inputs[0]: np.ascontiguousarray(lr)}).values())).shape
        except Exception:  # noqa: BLE001 - its exceptions share no base class, and a size that does not fit is an answer
            return None
        return tuple(shape[place] for place in (0, 3, 1, 2)) if whole and len(shape) == 4 else tuple(shape)

    return run


def _answer(request: str) -> dict[str, Any]:
    trial = Trial.model_validate_json(request)
    try:
        run = _open_runs(trial)
        _, _, fixed_h, fixed_w = trial.declared
        sizes = [(fixed_h or h, fixed_w or w) for h, w in _LARGE]
        large = next((size for size in sizes if run(*size) is not None), sizes[-1])
        found = measure_scale("it", run, trial.declared, large=large, limited=True)
    except GraphError as error:
        return {"error": str(error)}
    except Exception as error:  # noqa: BLE001 - those of ONNX Runtime
        return {"error": one_line(error)}
    return {"scale": found.scale, "multiple": found.multiple, "smallest": found.smallest}


if __name__ == "__main__":
    answer = json.dumps(_answer(sys.stdin.read()))
    os.write(1, answer.encode())
    os._exit(0)
