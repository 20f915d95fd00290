"""One contender in a process of its own: `python -m sr_deploy.bench.worker`, one JSON request a line, one answer each.

A process alone tells how much memory a contender needs, and no backend's waiting threads take another's time.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from sr_deploy.bench.choices import parse_contender
from sr_deploy.bench.statistics import is_steady, is_warm
from sr_deploy.deps import require
from sr_deploy.errors import SrDeployError
from sr_deploy.graph.ends import Dtype
from sr_deploy.measure.timer import resident_mib, time_call, time_turn
from sr_deploy.runners.ends import encode_input

if TYPE_CHECKING:
    from sr_deploy.model import Model
    from sr_deploy.runners.protocol import DeviceRunner, Runner

FILE_FORMAT = "png"
"""Of the pictures in `files` and of the results."""
_COPIES = 20  # of input and output, timed apart


class OpenRequest(TypedDict):
    """Load a contender and put its output for `input` into `output`."""

    model: str
    choice: str | None  # None: the reference
    threads: int
    input: str
    output: str
    files: str  # folder of the same input as pictures
    warm_up_seconds: float
    trust: dict[str, bool]  # fields of `EngineTrust`


class OpenAnswer(TypedDict):
    """What was loaded, what that took, and what a call takes once warm."""

    version: str
    rewrites: list[str]
    device: str
    dtype: Dtype
    arrays: str
    cold_seconds: ColdSeconds
    warm_up_calls: int
    steady: bool
    call_seconds: float
    copied_bytes: int | None
    copy_seconds: float | None
    import_mib: float
    device_mib: float | None


class ColdSeconds(TypedDict):
    """The parts of a cold start."""

    imported: float
    loaded: float
    first_call: float
    built: float | None


class Worker:
    """What the process holds: a runner, its input and what it measured."""

    def __init__(self, request: OpenRequest) -> None:
        """Load, run once, write the output, warm up."""
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
        self._call = self._make_call()
        times: list[float] = []
        while not is_warm(times, request["warm_up_seconds"]):
            times.append(time_call(self._call))
        spec = self._runner.spec
        built = _find_build_seconds(model, request, spec.artifact)
        copied_bytes, copy_seconds = self._time_copies(sr)
        self.answer = OpenAnswer(
            version=spec.version,
            rewrites=list(spec.rewrites),
            device=spec.device,
            dtype=spec.dtype,
            arrays="device" if self._on_device() else "host",
            cold_seconds=ColdSeconds(imported=imported, loaded=loaded, first_call=first_call, built=built),
            warm_up_calls=len(times),
            steady=is_steady(times),
            call_seconds=min(times[-3:]),
            copied_bytes=copied_bytes,
            copy_seconds=copy_seconds,
            import_mib=import_mib,
            device_mib=self._measure_device(device_before),
        )

    def take_turn(self, calls: int, primed: bool, files: bool) -> list[float]:
        """Time `calls` calls, in seconds each; one more goes before them untimed if `primed`.

        `files`: each from the pictures on disk to the pictures on disk.
        """
        gc.collect()  # here and not in time_turn: a large process takes long over it
        return time_turn(self._call_with_files if files else self._call, calls, primed)

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

    def _time_copies(self, sr: NDArray[np.float32]) -> tuple[int | None, float | None]:
        """Bytes to the GPU and back, and the median time of both copies; (None, None) on a CPU."""
        spec = self._runner.spec
        if spec.device == "cpu":
            return None, None
        ends = [encode_input(one, spec.dtype) for one in (self._lr, sr)]
        size = sum(one.nbytes for one in ends)
        if not self._on_device():
            return size, None
        import torch

        host_lr, device_sr = torch.from_numpy(ends[0]), torch.from_numpy(ends[1]).to(spec.device)

        def copy_both() -> None:
            host_lr.to(spec.device)
            device_sr.cpu()
            torch.cuda.synchronize(device_sr.device)

        return size, statistics.median(time_turn(copy_both, _COPIES, primed=True))

    def _measure_device(self, before: float | None) -> float | None:
        # Before the next contender is loaded: the driver tells what all processes have together.
        used = _device_used() if self._runner.spec.device != "cpu" else None
        return None if used is None or before is None else used - before


def _import_library(choice: str | None) -> None:
    """Import what the contender computes with."""
    if choice is not None:
        backend = parse_contender(choice).backend.backend
        require({"tensorrt": "torch", "tensorrt-rtx": "torch"}.get(backend, backend), f"the contender {choice}")


def _device_used() -> float | None:
    """MiB of the first GPU that are taken; None without torch or without a GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info(0)
    return float(total - free) / 2**20


def _open_model(request: OpenRequest) -> Model:
    from sr_deploy.bundle.trust import EngineTrust
    from sr_deploy.model import open_model

    return open_model(Path(request["model"]), EngineTrust(**request["trust"]))


def _open(model: Model, request: OpenRequest) -> Runner:
    from sr_deploy.bench.variants import open_contender
    from sr_deploy.runners.parity import open_reference

    if request["choice"] is None:
        return open_reference(model, threads=request["threads"])
    return open_contender(model, parse_contender(request["choice"]), request["threads"])


def _find_build_seconds(model: Model, request: OpenRequest, artifact: Path | None) -> float | None:
    from sr_deploy.bench.variants import find_build_seconds

    return find_build_seconds(model, parse_contender(request["choice"]), artifact) if request["choice"] else None


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer until the requests end: first an `OpenRequest`, then `{"calls", "primed", "files"}` or `{"peak"}`."""
    worker: Worker | None = None
    for line in requests:
        request = json.loads(line)
        try:
            if worker is None:
                worker = Worker(request)
                answer: object = worker.answer
            elif "peak" in request:
                answer = resident_mib("peak")
            else:
                answer = worker.take_turn(**request)
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
