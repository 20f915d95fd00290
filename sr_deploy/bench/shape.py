"""All contenders on one shape: load each, warm it up, then let them take turns in rounds."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sr_deploy.bench.choices import ContenderChoice
from sr_deploy.bench.contender import Contender, EndToEndTurns
from sr_deploy.bench.describe import Measured, describe_parity, describe_result
from sr_deploy.bench.load import others_load, sample_load
from sr_deploy.bench.report import BenchResult, LeftOut, Parity, ShapeRun
from sr_deploy.bench.rounds import Turns, run_rounds
from sr_deploy.bench.statistics import plan_schedule
from sr_deploy.bench.variants import write_fixed_graph
from sr_deploy.bench.worker import FILE_FORMAT, OpenRequest
from sr_deploy.bundle import Shape
from sr_deploy.bundle.tolerance import Fp32Rounding, widen_for_rounding
from sr_deploy.errors import SrDeployError
from sr_deploy.imaging.codec import write_image
from sr_deploy.imaging.convert import to_image
from sr_deploy.measure.compare import compare_outputs
from sr_deploy.measure.peak import Peaks
from sr_deploy.measure.watch import Conditions, watch_while
from sr_deploy.model import Model
from sr_deploy.runners.ends import compare_at_ends, rounding_of, snap_input
from sr_deploy.runners.inputs import photograph_batch

Progress = Callable[[float, float, str], None]
_WARM_UP_SECONDS = 1.5
_LOADING, _ROUNDS = 0.4, 0.5  # parts of the progress bar; the rest is from file to file


@dataclass(frozen=True)
class ShapeOutcome:
    """What came of one shape."""

    run: ShapeRun
    """What the contenders have in common."""
    results: Sequence[BenchResult]
    """Verified ones first, the fastest of them at the top."""
    failed: Sequence[LeftOut]
    """Contenders that failed on it."""


class ShapeBench:
    """All contenders on one shape."""

    def __init__(
        self,
        model: Model,
        shape: Shape,
        *,
        threads: int,
        seconds_each: float,
        find_peaks: Callable[[str], Peaks],
        tell: Progress,
    ) -> None:
        """Prepare.

        Args:
            model: what runs.
            shape: of the input.
            threads: of the CPU, for each contender.
            seconds_each: for the rounds of each contender, on average.
            find_peaks: what a device reaches.
            tell: of progress.
        """
        self._model = model
        self._shape = shape
        self._threads = threads
        self._seconds_each = seconds_each
        self._find_peaks = find_peaks
        self._tell = tell
        self._failed: list[LeftOut] = []

    def run(self, choices: Sequence[ContenderChoice]) -> ShapeOutcome:
        """Measure them, the baseline first.

        Raises:
            SrDeployError: the baseline failed.
        """
        with tempfile.TemporaryDirectory(prefix="sr-deploy-bench-") as name, contextlib.ExitStack() as stack:
            folder = Path(name)
            sha256 = self._write_inputs(folder)
            running = list(self._open_all(choices, folder, stack))
            parities = self._measure_parities(running, folder)
            turns, load, conditions = self._time_calls([one for _, one in running])
            peaks_mib = [one.measure_peak() for _, one in running]
            file_turns = self._time_files([one for _, one in running])
            results = [
                describe_result(
                    self._model,
                    choice,
                    self._shape,
                    Measured(one.opened, parity, turns[0], own, files, peak_mib),
                    self._find_peaks(one.opened["device"]),
                )
                for (choice, one), parity, own, files, peak_mib in zip(
                    running, parities, turns, file_turns, peaks_mib, strict=True
                )
            ]
        run = ShapeRun(
            shape=str(self._shape), sha256=sha256, rounds=len(turns[0]), others_load=load, conditions=conditions
        )
        return ShapeOutcome(run, sort_results(results), self._failed)

    def _write_inputs(self, folder: Path) -> str:
        """Write the input as an array and as pictures; the hash of the array."""
        photographs = photograph_batch(self._shape, self._model.channels, self._model.scale)
        lr_NCHW = snap_input(photographs, self._model.end_dtype)
        np.save(folder / "lr.npy", lr_NCHW)
        (folder / "files").mkdir()
        for index in range(self._shape.n):
            write_image(folder / "files" / f"{index:04}.{FILE_FORMAT}", to_image(lr_NCHW[index : index + 1]))
        return hashlib.sha256(f"{lr_NCHW.shape}".encode() + lr_NCHW.tobytes()).hexdigest()

    def _open_all(
        self, choices: Sequence[ContenderChoice], folder: Path, stack: contextlib.ExitStack
    ) -> Iterator[tuple[ContenderChoice, Contender]]:
        for index, choice in enumerate(choices):
            self._tell(_LOADING * index / len(choices), 1, f"{self._shape}: {choice}")
            try:
                yield choice, stack.enter_context(Contender(str(choice), self._request(choice, folder)))
            except SrDeployError as error:
                if index == 0:
                    raise  # without the baseline there is nothing to tell
                self._failed.append(LeftOut(contender=f"{choice} at {self._shape}", reason=str(error)))

    def _request(self, choice: ContenderChoice | None, folder: Path) -> OpenRequest:
        path = self._model.path
        if choice is not None and choice.variant == "fixed":
            path = write_fixed_graph(self._model, choice, self._shape, folder)
        return OpenRequest(
            model=str(path.resolve()),
            choice=None if choice is None else str(choice),
            threads=self._threads,
            input=str(folder / "lr.npy"),
            output=str(folder / f"{choice or 'reference'}.npy"),
            files=str(folder / "files"),
            warm_up_seconds=_WARM_UP_SECONDS if choice else 0,
            trust=asdict(self._model.trust),
        )

    def _measure_parities(self, running: Sequence[tuple[ContenderChoice, Contender]], folder: Path) -> list[Parity]:
        expected = self._reference_output(str(running[0][0]), folder)
        reference_rounding = 0.0 if self._model.has_weights else rounding_of(self._model.end_dtype)
        fp32_rounding = self._compare_layouts([str(choice) for choice, _ in running], folder)
        parities = []
        for choice, one in running:
            dtype = one.opened["dtype"]
            ends = rounding_of(dtype) + reference_rounding
            limits = self._model.thresholds_for(choice.backend.precision).widened(ends)
            if choice.backend.precision == "fp32":
                limits = widen_for_rounding(limits, fp32_rounding, ends)
            comparison = compare_at_ends(np.load(folder / f"{choice}.npy"), expected, dtype)
            parities.append(describe_parity(limits, comparison))
        return parities

    def _compare_layouts(self, names: Collection[str], folder: Path) -> Fp32Rounding | None:
        """What PyTorch's FP32 in its two memory layouts differs by; None: not both are timed."""
        if not {"torch:fp32", "torch:fp32+nchw"} <= set(names):
            return None
        comparison = compare_outputs(np.load(folder / "torch:fp32.npy"), np.load(folder / "torch:fp32+nchw.npy"))
        if not np.isfinite(comparison.max_abs):
            return None
        return Fp32Rounding(max_abs=comparison.max_abs, psnr_db=comparison.psnr_db)

    def _reference_output(self, baseline: str, folder: Path) -> NDArray[np.float32]:
        """The baseline's own output where it is the reference too, else that of a graph computed as it is written."""
        if not self._model.has_weights:
            Contender("reference", self._request(None, folder)).close()
        expected: NDArray[np.float32] = np.load(folder / f"{baseline if self._model.has_weights else 'reference'}.npy")
        return expected

    def _time_calls(self, running: Sequence[Contender]) -> tuple[list[Turns], float | None, Conditions]:
        schedule = plan_schedule([one.opened["call_seconds"] for one in running], self._seconds_each)
        processes = [one.process_id for one in running]
        before = sample_load(processes)
        part = _ROUNDS / schedule.rounds
        turns, conditions = watch_while(
            lambda: run_rounds(
                running, schedule, lambda done: self._tell(_LOADING + part * done, 1, f"{self._shape}: round {done}")
            )
        )
        return turns, others_load(before, sample_load(processes)), conditions

    def _time_files(self, running: Sequence[Contender]) -> list[Turns]:
        """From file to file, in half the time; the first call of each only tells how long one takes."""
        takers = [EndToEndTurns(one) for one in running]
        schedule = plan_schedule([one.take_turn(1, primed=True)[0] for one in takers], self._seconds_each / 2)
        return run_rounds(
            takers, schedule, lambda done: self._tell(_LOADING + _ROUNDS, 1, f"{self._shape}: files, round {done}")
        )


def sort_results(results: Sequence[BenchResult]) -> list[BenchResult]:
    """The fastest first, but none before those whose parity was verified."""
    return sorted(results, key=lambda one: (not one.parity.verified, one.median_ms))
