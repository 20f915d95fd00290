"""One contender in a process of its own: `python -m sr_deploy.bench.worker`, one JSON request a line, one answer each.

A process alone tells how much memory a contender needs, and no backend's waiting threads take another's time.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from sr_deploy.backends import parse_backend
from sr_deploy.bench.statistics import is_warm
from sr_deploy.errors import SrDeployError
from sr_deploy.graph.ends import Dtype
from sr_deploy.measure.timer import resident_mib, time_call, time_turn
from sr_deploy.runners.ends import encode_input

if TYPE_CHECKING:
    from sr_deploy.runners.protocol import DeviceRunner, Runner


class OpenRequest(TypedDict):
    """Load a contender and put its output for `input` into `output`."""

    model: str
    choice: str | None  # None: the reference
    threads: int
    input: str
    output: str
    warm_up_seconds: float


class OpenAnswer(TypedDict):
    """What was loaded, and what a call takes once warm."""

    version: str
    rewrites: list[str]
    device: str
    dtype: Dtype
    arrays: str
    call_seconds: float


class MemoryAnswer(TypedDict):
    """Figures in MiB."""

    peak: float
    library: float
    device: float | None


class Worker:
    """What the process holds: a runner, its input and what it measured."""

    def __init__(self, request: OpenRequest) -> None:
        """Load, run once, write the output, warm up."""
        self._library_mib = _import_library(request["choice"])
        self._runner = _open(request)
        self._lr: NDArray[np.float32] = np.load(request["input"])
        self._call = self._make_call()
        self._device_before = self._device_used()
        np.save(request["output"], self._runner.infer(self._lr))
        times: list[float] = []
        while not is_warm(times, request["warm_up_seconds"]):
            times.append(time_call(self._call))
        self._answer = OpenAnswer(
            version=self._runner.spec.version,
            rewrites=list(self._runner.spec.rewrites),
            device=self._runner.spec.device,
            dtype=self._runner.spec.dtype,
            arrays="device" if self._on_device() else "host",
            call_seconds=min(times[-3:]),
        )

    @property
    def answer(self) -> OpenAnswer:
        """What to say about the loading."""
        return self._answer

    def take_turn(self, calls: int, primed: bool) -> list[float]:
        """Time `calls` calls, in seconds each; one more goes before them untimed if `primed`."""
        gc.collect()  # here and not in time_turn: a large process takes long over it
        return time_turn(self._call, calls, primed)

    def measure_memory(self) -> MemoryAnswer:
        """Greatest resident memory so far, what the library alone took, and the GPU's share."""
        used = self._device_used()
        device = None if used is None or self._device_before is None else used - self._device_before
        return MemoryAnswer(peak=resident_mib("peak"), library=self._library_mib, device=device)

    def _on_device(self) -> bool:
        return self._runner.spec.device != "cpu" and hasattr(self._runner, "infer_on_device")

    def _make_call(self) -> Callable[[], object]:
        if not self._on_device():
            return lambda: self._runner.infer(self._lr)
        import torch

        runner = cast("DeviceRunner", self._runner)
        lr = torch.from_numpy(encode_input(self._lr, runner.spec.dtype)).to(runner.spec.device)

        def call_and_wait() -> None:
            runner.infer_on_device(lr)
            torch.cuda.synchronize(lr.device)

        return call_and_wait

    def _device_used(self) -> float | None:
        if not self._on_device():
            return None
        import torch

        free, total = torch.cuda.mem_get_info(self._runner.spec.device)
        return (total - free) / 2**20


def _import_library(choice: str | None) -> float:
    """Import what the contender computes with, and say how much memory that took."""
    if choice is not None:
        backend = parse_backend(choice).backend
        importlib.import_module({"tensorrt": "torch", "tensorrt-rtx": "torch"}.get(backend, backend))
    return resident_mib("now")


def _open(request: OpenRequest) -> Runner:
    from sr_deploy.model import open_model
    from sr_deploy.runners import open_runner
    from sr_deploy.runners.parity import open_reference

    model = open_model(Path(request["model"]))
    if request["choice"] is None:
        return open_reference(model, threads=request["threads"])
    return open_runner(model, request["choice"], threads=request["threads"])


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer until the requests end: first an `OpenRequest`, then `{"calls", "primed"}` or `{"memory"}`."""
    worker: Worker | None = None
    for line in requests:
        request = json.loads(line)
        try:
            if worker is None:
                worker = Worker(request)
                answer: object = worker.answer
            elif "memory" in request:
                answer = worker.measure_memory()
            else:
                answer = worker.take_turn(request["calls"], request["primed"])
            document = {"answer": answer}
        except SrDeployError as error:
            document = {"error": str(error), "kind": type(error).__name__}
        print(json.dumps(document), file=answers, flush=True)


def _main() -> None:
    # Libraries print to stdout as they like: the answers keep the pipe, everything else goes to stderr.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, answers)


if __name__ == "__main__":
    _main()
