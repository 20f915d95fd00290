"""One candidate in a process of its own: `python -m sr_deploy.bench.worker`, one JSON request a line, one answer each.

A process alone tells how much memory a candidate needs, and no backend's waiting threads take another's time.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

import numpy as np
from numpy.typing import NDArray

from sr_deploy.backends.registry import get_backend, get_reference
from sr_deploy.bench.choices import parse_candidate
from sr_deploy.bench.device_timing import IN_FLIGHT, CudaDevice, Device, DeviceTimer, PinnedCopies
from sr_deploy.bench.messages import (
    FILE_FORMAT,
    ColdSeconds,
    CopiesAnswer,
    DeviceAnswer,
    OpenAnswer,
    OpenRequest,
    TurnKind,
)
from sr_deploy.bench.statistics import is_steady, is_warm
from sr_deploy.deps import require
from sr_deploy.errors import SrDeployError
from sr_deploy.measure.timer import resident_mib, time_call, time_turn
from sr_deploy.runners.io_conversion import encode_input

if TYPE_CHECKING:
    from sr_deploy.model import Model
    from sr_deploy.runners.protocol import DeviceRunner, Runner


def find_device(runner: Runner) -> Device | None:
    """The GPU of a runner that takes tensors there; None: it takes and gives arrays of the host."""
    on_device = runner.spec.device != "cpu" and hasattr(runner, "infer_on_device")
    return CudaDevice(runner.spec.device) if on_device else None


class Worker:
    """What the process holds: a runner, its input and what it measured."""

    def __init__(self, request: OpenRequest, find: Callable[[Runner], Device | None] = find_device) -> None:
        """Load, run once, write the output, warm up; `find` is for tests."""
        imported = time_call(lambda: _import_library(request["choice"]))
        import_mib, device_before = resident_mib("now"), _device_used()
        started = time.perf_counter()
        model = _open_model(request)
        self._runner = _open(model, request)
        loaded = time.perf_counter() - started
        self._lr: NDArray[np.float32] = np.load(request["input"])
        started = time.perf_counter()
        sr = self._runner.infer(self._lr)
        first_call = time.perf_counter() - started
        np.save(request["output"], sr)
        self._files = Path(request["files"])
        device = find(self._runner)
        self._timer = None if device is None else DeviceTimer(device, self._make_device_call())
        times = self._warm_up(request["warm_up_seconds"])
        spec = self._runner.spec
        built = _find_build_seconds(model, request, spec.artifact)
        self.answer = OpenAnswer(
            version=spec.version,
            rewrites=list(spec.rewrites),
            device=spec.device,
            dtype=spec.dtype,
            arrays="host" if device is None else "device",
            cold_seconds=ColdSeconds(imported=imported, loaded=loaded, first_call=first_call, built=built),
            warm_up_calls=len(times),
            steady=is_steady(times),
            call_seconds=min(times[-3:]),
            import_mib=import_mib,
            # Before the next candidate is loaded: the driver tells what all processes have together.
            device_mib=None if device is None else _measure_device(device_before),
            copies=self._time_copies(sr, device),
        )

    def take_turn(self, calls: int, primed: bool, kind: TurnKind) -> list[float]:
        """Time `calls` calls, in seconds each; one more goes before them untimed if `primed`."""
        gc.collect()  # here and not within a turn: a large process takes long over it
        if kind == "files":
            return time_turn(self._call_with_files, calls, primed)
        if self._timer is None:
            return time_turn(self._infer, calls, primed)
        return self._timer.time_pipelined(calls) if kind == "pipelined" else self._timer.time_turn(calls, primed)

    def tell_device(self) -> DeviceAnswer | None:
        """Of all calls so far that were timed on a GPU one by one; None where there is none."""
        if self._timer is None:
            return None
        return DeviceAnswer(device_seconds=self._timer.device_seconds, enqueue_seconds=self._timer.enqueue_seconds)

    def _infer(self) -> None:
        self._runner.infer(self._lr)

    def _make_device_call(self) -> Callable[[], object]:
        import torch

        runner = cast("DeviceRunner", self._runner)
        lr = torch.from_numpy(encode_input(self._lr, runner.spec.dtype)).to(runner.spec.device)
        return lambda: runner.infer_on_device(lr)

    def _warm_up(self, budget: float) -> list[float]:
        if self._timer is not None:
            times = self._timer.warm_up(budget)
            self._timer.time_pipelined(IN_FLIGHT)  # takes the memory that calls in flight together need
            return times
        times = []
        while not is_warm(times, budget):
            times.append(time_call(self._infer))
        return times

    def _call_with_files(self) -> None:
        from sr_deploy.imaging.codec import read_image, write_image
        from sr_deploy.imaging.convert import to_image, to_nchw

        sources = sorted(self._files.glob(f"*.{FILE_FORMAT}"))
        results = self._files / str(os.getpid())
        results.mkdir(exist_ok=True)
        pictures = [to_nchw(read_image(path, self._runner.spec.channels)) for path in sources]
        sr = self._runner.infer(np.concatenate(pictures))
        for index, path in enumerate(sources):
            write_image(results / path.name, to_image(sr[index : index + 1]))

    def _time_copies(self, sr: NDArray[np.float32], device: Device | None) -> CopiesAnswer | None:
        """None on a CPU; of candidates that take tensors on the GPU as `upscale` copies for them."""
        spec = self._runner.spec
        if device is not None:
            copies = PinnedCopies(encode_input(self._lr, "uint8"), encode_input(sr, "uint8"), spec.device)
            seconds, device_seconds = copies.time(device)
            return CopiesAnswer(bytes=copies.bytes, seconds=seconds, device_seconds=device_seconds)
        if spec.device == "cpu":
            return None
        size = sum(encode_input(one, spec.dtype).nbytes for one in (self._lr, sr))
        return CopiesAnswer(bytes=size, seconds=None, device_seconds=None)


def _measure_device(before: float | None) -> float | None:
    """MiB of the first GPU more than before; None where that is not told."""
    used = _device_used()
    return None if used is None or before is None else used - before


def _import_library(choice: str | None) -> None:
    """Import what the candidate computes with."""
    if choice is not None:
        backend = get_backend(parse_candidate(choice).backend.backend)
        require(backend.loads or backend.package, f"the candidate {choice}")


def _device_used() -> float | None:
    """MiB of the first GPU that are taken; None without torch or without a GPU."""
    torch = sys.modules.get(get_reference("weights").package.module)
    if torch is None or not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info(0)
    return float(total - free) / 2**20


def _open_model(request: OpenRequest) -> Model:
    from sr_deploy.bundle.trust import EngineTrust
    from sr_deploy.model import open_model

    return open_model(Path(request["model"]), EngineTrust(**request["trust"]))


def _open(model: Model, request: OpenRequest) -> Runner:
    from sr_deploy.bench.variants import open_candidate
    from sr_deploy.runners.parity import open_reference

    if request["choice"] is None:
        return open_reference(model, threads=request["threads"])
    return open_candidate(model, parse_candidate(request["choice"]), request["threads"])


def _find_build_seconds(model: Model, request: OpenRequest, artifact: Path | None) -> float | None:
    from sr_deploy.bench.variants import find_build_seconds

    return find_build_seconds(model, parse_candidate(request["choice"]), artifact) if request["choice"] else None


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer until the requests end: first an `OpenRequest`, then arguments of `Worker.take_turn`, or what to tell."""
    worker: Worker | None = None
    for line in requests:
        request = json.loads(line)
        try:
            if worker is None:
                worker = Worker(request)
                answer: object = worker.answer
            elif request == {"tell": "peak"}:
                answer = resident_mib("peak")
            elif request == {"tell": "device"}:
                answer = worker.tell_device()
            else:
                answer = worker.take_turn(**request)
            document = {"answer": answer}
        except SrDeployError as error:
            document = {"error": str(error), "kind": type(error).__name__}
        print(json.dumps(document), file=answers, flush=True)


def _main() -> None:
    logging.basicConfig(format="%(message)s")  # warnings go to whoever reads this process's stderr
    # Libraries print to stdout as they like: the answers keep the pipe, everything else goes to stderr.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, answers)


if __name__ == "__main__":
    _main()
