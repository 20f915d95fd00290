"""The protocol: load every contender, warm it up, then let them take turns in rounds."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sr_deploy.backends import BackendChoice, parse_backend
from sr_deploy.bench.contender import Contender
from sr_deploy.bench.load import others_load, sample_load
from sr_deploy.bench.report import BenchReport, BenchResult, LeftOut, Parity
from sr_deploy.bench.statistics import Schedule, compare_speed, plan_schedule, summarise_calls
from sr_deploy.bench.worker import MemoryAnswer, OpenRequest
from sr_deploy.bundle import Shape, Thresholds, utc_now
from sr_deploy.errors import BackendError, SrDeployError
from sr_deploy.measure.compare import Comparison
from sr_deploy.measure.machine import describe_machine, tool_versions
from sr_deploy.model import Model, open_model
from sr_deploy.runners import why_not_runnable
from sr_deploy.runners.choose import all_choices
from sr_deploy.runners.ends import compare_at_ends, rounding_of, snap_input
from sr_deploy.runners.inputs import photograph_batch
from sr_deploy.runners.parity import describe_reference
from sr_deploy.runners.threads import default_threads
from sr_deploy.trt import visible_gpus

DEFAULT_SHAPES = (Shape(1, 128, 128),)
_PAUSE_SECONDS = 0.005  # threads of the one before go to sleep
_WARM_UP_SECONDS = 1.5
Progress = Callable[[float, float, str], None]


class TurnTaker(Protocol):
    """What takes turns in `run_rounds`."""

    def take_turn(self, calls: int, primed: bool) -> list[float]:
        """Seconds of each of `calls` calls."""
        ...


def bench_model(
    model: Model | Path | str,
    *,
    shapes: Sequence[Shape] = DEFAULT_SHAPES,
    choices: Sequence[BackendChoice] | None = None,
    seconds_each: float = 2.0,
    threads: int | None = None,
    command: str = "sr_deploy.bench",
    on_progress: Progress | None = None,
) -> BenchReport:
    """Time PyTorch and other backends side by side on photographs.

    Every contender runs in a process of its own with the same number of threads, is warmed up until its calls take
    the same time, and then they take turns, round after round. Its output is compared with the reference's on the
    very input that is timed.

    Args:
        model: a bundle, an ONNX file or a checkpoint, or its path.
        shapes: inputs.
        choices: contenders; None: all that run here. The baseline (torch:fp32, or ONNX Runtime where there are no
            weights) is always among them.
        seconds_each: time for the rounds of each contender and shape, on average.
        threads: of the CPU; None: one a core.
        command: named in the report.
        on_progress: told how much of how much is done, and a note.

    Raises:
        BackendError: the baseline does not run.
        InputError: no such model, or nothing to compare with.
        ShapeError: a shape that the baseline does not take.
    """
    if not isinstance(model, Model):
        model = open_model(Path(model))
    threads = threads or default_threads()
    reference = describe_reference(model)
    contenders, left_out = choose_contenders(model, choices)
    tell = on_progress or (lambda _done, _total, _note: None)
    results: list[BenchResult] = []
    for index, shape in enumerate(shapes):
        bench = _ShapeBench(model, shape, threads, seconds_each, _scaled(tell, index, len(shapes)))
        found, failed = bench.run(contenders)
        results += found
        left_out += failed
    return BenchReport(
        measured_at=utc_now(),
        command=command,
        machine=describe_machine(),
        threads=threads,
        versions=tool_versions(),
        model=model.path.name,
        model_sha256=reference.sha256,
        scale=model.scale,
        channels=model.channels,
        content="photographs",
        reference=reference.title,
        baseline=str(contenders[0]),
        shapes=tuple(map(str, shapes)),
        results=tuple(results),
        left_out=tuple(left_out),
    )


def choose_contenders(
    model: Model, choices: Sequence[BackendChoice] | None
) -> tuple[list[BackendChoice], list[LeftOut]]:
    """Who runs, the baseline first, and who does not and why.

    Raises:
        BackendError: the baseline does not run here.
    """
    baseline = find_baseline(model)
    reason = why_not_runnable(model, baseline)
    if reason is not None:
        raise BackendError(f"the baseline does not run: {reason}")
    wanted = all_choices() if choices is None else list(dict.fromkeys(choices))
    running, left_out = [baseline], []
    for choice in wanted:
        reason = why_not_runnable(model, choice) or (_why_left_out(choice) if choices is None else None)
        if reason is not None:
            left_out.append(LeftOut(contender=str(choice), reason=reason))
        elif choice != baseline:
            running.append(choice)
    if choices is None:
        left_out = [one for one in left_out if _is_telling(model, parse_backend(one.contender))]
    return running, left_out


def find_baseline(model: Model) -> BackendChoice:
    """PyTorch in fp32, or ONNX Runtime with the graph there is."""
    if model.has_weights or not model.precisions:
        return BackendChoice("torch", "fp32")
    return BackendChoice("onnxruntime", model.precisions[0])


def _why_left_out(choice: BackendChoice) -> str | None:
    if choice == BackendChoice("torch", "fp16") and not visible_gpus():
        return "half precision on a CPU shows its error, not its speed; to time it all the same: --backend torch:fp16"
    if choice == BackendChoice("onnxruntime", "bf16"):
        return f"it rounds FP32 results: that shows its error, not its speed; to time it still: --backend {choice}"
    return None


def _is_telling(model: Model, choice: BackendChoice) -> bool:
    """Whether a reader misses it: not a precision that the model has no graph of, nor one that exists nowhere."""
    if choice.backend == "torch":
        return choice.precision != "int8"
    if choice.precision == "bf16":
        return choice.backend == "openvino"
    return choice.precision in model.precisions and choice != BackendChoice("openvino", "fp16")


def _scaled(tell: Progress, index: int, count: int) -> Progress:
    """Progress of one shape as a part of the whole."""
    return lambda done, total, note: tell(index + done / total, count, note)


class _ShapeBench:
    """All contenders on one shape."""

    def __init__(self, model: Model, shape: Shape, threads: int, seconds_each: float, tell: Progress) -> None:
        self._model = model
        self._shape = shape
        self._threads = threads
        self._seconds_each = seconds_each
        self._tell = tell
        self._failed: list[LeftOut] = []

    def run(self, choices: Sequence[BackendChoice]) -> tuple[list[BenchResult], list[LeftOut]]:
        with tempfile.TemporaryDirectory(prefix="sr-deploy-bench-") as name, contextlib.ExitStack() as stack:
            folder = Path(name)
            ends = self._model.end_dtype
            photographs = photograph_batch(self._shape, self._model.channels, self._model.scale)
            np.save(folder / "lr.npy", snap_input(photographs, ends))
            running = list(self._open_all(choices, folder, stack))
            expected = self._reference_output(folder)
            reference_rounding = 0.0 if self._model.has_weights else rounding_of(ends)
            parities = [
                _measure_parity(
                    self._model.thresholds_for(choice.precision).widened(
                        rounding_of(one.opened["dtype"]) + reference_rounding
                    ),
                    compare_at_ends(np.load(folder / f"{choice}.npy"), expected, one.opened["dtype"]),
                )
                for choice, one in running
            ]
            schedule = plan_schedule([one.opened["call_seconds"] for _, one in running], self._seconds_each)
            processes = [one.process_id for _, one in running]
            before = sample_load(processes)
            turns = run_rounds(
                [one for _, one in running],
                schedule,
                lambda done: self._tell(0.4 + 0.6 * done / schedule.rounds, 1, f"{self._shape}: round {done}"),
            )
            load = others_load(before, sample_load(processes))
            results = [
                self._describe(one, parity, turns[0], own, load)
                for (_, one), parity, own in zip(running, parities, turns, strict=True)
            ]
        return sort_results(results), self._failed

    def _open_all(
        self, choices: Sequence[BackendChoice], folder: Path, stack: contextlib.ExitStack
    ) -> Iterator[tuple[BackendChoice, Contender]]:
        for index, choice in enumerate(choices):
            self._tell(0.4 * index / len(choices), 1, f"{self._shape}: {choice}")
            try:
                yield choice, stack.enter_context(Contender(str(choice), self._request(str(choice), folder)))
            except SrDeployError as error:
                if index == 0:
                    raise  # without the baseline there is nothing to tell
                self._failed.append(LeftOut(contender=f"{choice} at {self._shape}", reason=str(error)))

    def _request(self, choice: str | None, folder: Path) -> OpenRequest:
        return OpenRequest(
            model=str(self._model.path.resolve()),
            choice=choice,
            threads=self._threads,
            input=str(folder / "lr.npy"),
            output=str(folder / f"{choice or 'reference'}.npy"),
            warm_up_seconds=_WARM_UP_SECONDS if choice else 0,
        )

    def _reference_output(self, folder: Path) -> NDArray[np.float32]:
        """The baseline's own output where it is the reference too, else that of a graph computed as it is written."""
        name = "torch:fp32" if self._model.has_weights else "reference"
        if not self._model.has_weights:
            Contender("reference", self._request(None, folder)).close()
        expected: NDArray[np.float32] = np.load(folder / f"{name}.npy")
        return expected

    def _describe(
        self,
        contender: Contender,
        parity: Parity,
        baseline: Sequence[Sequence[float]],
        own: Sequence[Sequence[float]],
        load: float | None,
    ) -> BenchResult:
        timing, speedup = summarise_calls(own), compare_speed(baseline, own)
        memory: MemoryAnswer = contender.measure_memory()
        n, h, w = self._shape
        megapixels = n * h * w / 1e6
        return BenchResult(
            contender=contender.title,
            backend_version=contender.opened["version"],
            rewrites=tuple(contender.opened["rewrites"]),
            device=contender.opened["device"],
            shape=str(self._shape),
            arrays="device" if contender.opened["arrays"] == "device" else "host",
            calls=sum(map(len, own)),
            rounds=len(own),
            median_ms=timing.median * 1e3,
            p95_ms=timing.p95 * 1e3,
            images_per_second=n / timing.median,
            input_megapixels_per_second=megapixels / timing.median,
            output_megapixels_per_second=megapixels * self._model.scale**2 / timing.median,
            peak_memory_mib=memory["peak"],
            library_memory_mib=memory["library"],
            device_memory_mib=memory["device"],
            speedup=speedup.ratio,
            speedup_low=speedup.low,
            speedup_high=speedup.high,
            others_load=load,
            parity=parity,
        )


def run_rounds(
    contenders: Sequence[TurnTaker], schedule: Schedule, on_round: Callable[[int], None]
) -> list[list[list[float]]]:
    """Let every contender have its turn in each round: A B C A B C ...

    Returns:
        For each contender, for each round, the seconds of its calls.
    """
    turns: list[list[list[float]]] = [[] for _ in contenders]
    for done in range(schedule.rounds):
        for index, contender in enumerate(contenders):
            time.sleep(_PAUSE_SECONDS)
            turns[index].append(contender.take_turn(schedule.calls[index], schedule.primed[index]))
        on_round(done + 1)
    return turns


def sort_results(results: Sequence[BenchResult]) -> list[BenchResult]:
    """The fastest first, but none before those whose parity was verified."""
    return sorted(results, key=lambda one: (not one.parity.verified, one.median_ms))


def _measure_parity(limits: Thresholds, comparison: Comparison) -> Parity:
    return Parity(
        max_abs=comparison.max_abs,
        psnr_db=comparison.psnr_db,
        changed_8bit=comparison.changed_8bit,
        verified=limits.met_by(comparison),
    )
