"""All candidates on one shape: load each, warm it up, let them take turns in rounds, release them."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sr_deploy.backends import BackendChoice
from sr_deploy.backends.description import DEFAULT_LAYOUT
from sr_deploy.backends.registry import get_reference
from sr_deploy.bench.candidate import Candidate
from sr_deploy.bench.choices import FIXED, CandidateChoice
from sr_deploy.bench.describe import describe_parity, describe_result
from sr_deploy.bench.entry import Entry, Meanwhile, take_turns
from sr_deploy.bench.messages import FILE_FORMAT, OpenRequest
from sr_deploy.bench.report import BenchResult, LeftOut, Parity, ShapeRun
from sr_deploy.bench.variants import write_fixed_graph
from sr_deploy.bundle import Shape
from sr_deploy.bundle.tolerance import Fp32Rounding, widen_for_rounding
from sr_deploy.errors import SrDeployError
from sr_deploy.imaging.codec import write_image
from sr_deploy.imaging.convert import to_image
from sr_deploy.measure.compare import compare_outputs
from sr_deploy.measure.peak import Peaks
from sr_deploy.model import Model
from sr_deploy.progress import OnProgress, Progress
from sr_deploy.runners.inputs import photograph_batch
from sr_deploy.runners.io_conversion import compare_decoded, rounding_of, snap_input

_WARM_UP_SECONDS = 1.5
_LOADING = 0.4  # of the time, where all are loaded before they take turns


@dataclass(frozen=True)
class ShapeOutcome:
    """What came of one shape."""

    run: ShapeRun
    """What the candidates have in common."""
    results: Sequence[BenchResult]
    """Verified ones first, the fastest of them at the top."""
    failed: Sequence[LeftOut]
    """Candidates that failed on it."""


class ShapeBench:
    """All candidates on one shape."""

    def __init__(
        self,
        model: Model,
        shape: Shape,
        *,
        threads: int,
        seconds_each: float,
        find_peaks: Callable[[str], Peaks],
        on_progress: OnProgress,
    ) -> None:
        """Prepare.

        Args:
            model: what runs.
            shape: of the input.
            threads: of the CPU, for each candidate.
            seconds_each: for the rounds of each candidate, on average.
            find_peaks: what a device reaches.
            on_progress: told of each round.
        """
        self._model = model
        self._shape = shape
        self._threads = threads
        self._seconds_each = seconds_each
        self._find_peaks = find_peaks
        self._on_progress = on_progress
        self._failed: list[LeftOut] = []
        self._done = 0.0

    def run(self, choices: Sequence[CandidateChoice]) -> ShapeOutcome:
        """Measure them, the baseline first.

        Candidates on a CPU take turns all together. One on a GPU takes turns with the baseline alone and is released
        before the next is loaded, so that each has the GPU's memory for itself and the baseline.

        Raises:
            SrDeployError: the baseline failed.
        """
        with tempfile.TemporaryDirectory(prefix="sr-deploy-bench-") as name:
            folder, meanwhile = Path(name), Meanwhile()
            sha256 = self._write_inputs(folder)
            self._write_reference(folder)
            with contextlib.ExitStack() as stack:
                entries = self._take_all_turns(self._open_all(choices, folder, stack), len(choices), meanwhile)
            parities = self._measure_parities(entries, folder)
        results = [
            describe_result(self._model, one, self._shape, parity, self._find_peaks(one.process.opened["device"]))
            for one, parity in zip(entries, parities, strict=True)
        ]
        run = ShapeRun(
            shape=str(self._shape),
            sha256=sha256,
            rounds=min(meanwhile.rounds),
            others_load=max(meanwhile.loads, default=None),
            conditions=meanwhile.watch.summarize(),
        )
        return ShapeOutcome(run, sort_results(results), self._failed)

    def _take_all_turns(self, opening: Iterator[Entry], count: int, meanwhile: Meanwhile) -> list[Entry]:
        baseline = next(opening)
        entries, together = [baseline], [baseline]
        for entry in opening:
            entries.append(entry)
            if entry.on_gpu:
                place = len(entries) + len(self._failed)
                self._take_turns([baseline, entry], meanwhile, (place - 1) / count, place / count)
                entry.release()
            else:
                together.append(entry)
        if len(together) > 1 or not baseline.own:
            self._take_turns(together, meanwhile, _LOADING, 1)
        for entry in together:
            entry.release()
        return entries

    def _take_turns(self, group: Sequence[Entry], meanwhile: Meanwhile, begin: float, end: float) -> None:
        """`begin` and `end`: which part of all that is to do this is."""

        def tell(progress: Progress) -> None:
            self._progress(begin + (end - begin) * progress.done, f"{names}: {progress.stage}")

        names = ", ".join(str(one.choice) for one in group)
        take_turns(group, self._seconds_each, meanwhile, tell)

    def _progress(self, done: float, note: str) -> None:
        self._done = max(self._done, done)  # how much a GPU's candidates have yet to do is known when they are loaded
        self._on_progress(Progress(f"{self._shape}: {note}", self._done, 1, "shapes"))

    def _write_inputs(self, folder: Path) -> str:
        """Write the input as an array and as pictures; the hash of the array."""
        photographs = photograph_batch(self._shape, self._model.channels, self._model.scale)
        lr_NCHW = snap_input(photographs, self._model.input_dtype)
        np.save(folder / "lr.npy", lr_NCHW)
        (folder / "files").mkdir()
        for index in range(self._shape.n):
            write_image(folder / "files" / f"{index:04}.{FILE_FORMAT}", to_image(lr_NCHW[index : index + 1]))
        return hashlib.sha256(f"{lr_NCHW.shape}".encode() + lr_NCHW.tobytes()).hexdigest()

    def _open_all(
        self, choices: Sequence[CandidateChoice], folder: Path, stack: contextlib.ExitStack
    ) -> Iterator[Entry]:
        for index, choice in enumerate(choices):
            self._progress(_LOADING * index / len(choices), str(choice))
            try:
                process = stack.enter_context(Candidate(str(choice), self._request(choice, folder)))
            except SrDeployError as error:
                if index == 0:
                    raise  # without the baseline there is nothing to tell
                self._failed.append(LeftOut(candidate=f"{choice} at {self._shape}", reason=str(error)))
            else:
                yield Entry(choice, process)

    def _request(self, choice: CandidateChoice | None, folder: Path) -> OpenRequest:
        path = self._model.path
        if choice is not None and choice.variant == FIXED:
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

    def _measure_parities(self, entries: Sequence[Entry], folder: Path) -> list[Parity]:
        reference = str(entries[0].choice) if self._model.has_weights else "reference"
        expected: NDArray[np.float32] = np.load(folder / f"{reference}.npy")
        reference_rounding = 0.0 if self._model.has_weights else rounding_of(self._model.input_dtype)
        fp32_rounding = self._compare_layouts([str(one.choice) for one in entries], folder)
        parities = []
        for one in entries:
            choice, dtype = one.choice, one.process.opened["dtype"]
            io_rounding = rounding_of(dtype) + reference_rounding
            limits = self._model.thresholds_for(choice.backend.precision).widened(io_rounding)
            if choice.backend.precision == "fp32":
                limits = widen_for_rounding(limits, fp32_rounding, io_rounding)
            comparison = compare_decoded(np.load(folder / f"{choice}.npy"), expected, dtype)
            parities.append(describe_parity(limits, comparison))
        return parities

    def _compare_layouts(self, names: Collection[str], folder: Path) -> Fp32Rounding | None:
        """What PyTorch's FP32 in its two memory layouts differs by; None: not both are timed."""
        own = BackendChoice(get_reference("weights").name)
        layouts = [str(CandidateChoice(own)), str(CandidateChoice(own, DEFAULT_LAYOUT))]
        if not set(layouts) <= set(names):
            return None
        comparison = compare_outputs(*(np.load(folder / f"{layout}.npy") for layout in layouts))
        if not np.isfinite(comparison.max_abs):
            return None
        return Fp32Rounding(max_abs=comparison.max_abs, psnr_db=comparison.psnr_db)

    def _write_reference(self, folder: Path) -> None:
        """Where the baseline's own output is not the reference too: that of a graph computed as it is written."""
        if not self._model.has_weights:
            Candidate("reference", self._request(None, folder)).close()


def sort_results(results: Sequence[BenchResult]) -> list[BenchResult]:
    """The fastest first, but none before those whose parity was verified."""
    return sorted(results, key=lambda one: (not one.parity.verified, one.median_ms))
