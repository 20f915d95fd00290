"""The document of a benchmark. Schema version 3, and 2 is read; each field is explained at its definition."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from sr_deploy.backends import Precision
from sr_deploy.bundle.records import Record
from sr_deploy.config import first_problem
from sr_deploy.errors import InputError
from sr_deploy.files import require_file
from sr_deploy.measure.clocks import ClockLock
from sr_deploy.measure.machine import Machine
from sr_deploy.measure.peak import Peaks
from sr_deploy.measure.watch import Conditions
from sr_deploy.untrusted import read_json

SCHEMA_VERSION: Literal[3] = 3


class _Explained(Record, use_attribute_docstrings=True):
    """A record whose docstrings are the descriptions of the published schema."""


class Parity(_Explained):
    """A candidate's output against the reference's, on the very input that was timed."""

    max_abs: float
    """Greatest absolute difference, unclamped, in units of the [0, 1] range."""
    psnr_db: float | None
    """PSNR clamped to [0, 1], peak 1.0, in dB; None if the outputs are equal."""
    changed_8bit: float
    """Share of the samples that differ after rounding to 8 bit, 0 to 1."""
    verified: bool
    """Whether it is as near as its precision has to come (the thresholds of `sr-deploy verify`)."""


class ColdStart(_Explained):
    """What the first result costs in a fresh process, each part once."""

    import_ms: float
    """Importing the backend's library."""
    load_ms: float
    """Opening the model: reading, rewriting and compiling the graph, or loading the engine."""
    first_call_ms: float
    """The first inference; torch.compile compiles in it."""
    build_ms: float | None
    """Building the engine, as its record says; None where nothing is built ahead."""

    @property
    def total_ms(self) -> float:
        """All but the build."""
        return self.import_ms + self.load_ms + self.first_call_ms


class EndToEnd(_Explained):
    """From picture files to picture files: decoding, inference, rounding to 8 bit and encoding, one after the other."""

    format: str
    """Of the files on both sides."""
    calls: int
    """Timed calls, over all rounds; each reads and writes as many files as the batch has pictures."""
    median_ms: float
    """Median time of a call."""
    spread_ms: float
    """Half the distance between the quartiles of the calls."""
    images_per_second: float
    """Batch size over the median."""


class HostCopies(_Explained):
    """Input to the GPU and output back, apart from the inference.

    Samples of 8 bit through pinned memory, as `upscale` moves them; in version 2 samples of the candidate's own type,
    from memory that is not pinned.
    """

    bytes: int
    """Both together, for one call."""
    median_ms: float | None
    """Median time, with the copies into the pinned memory and out of it; None where the backend copies inside its call,
    so that the inference holds it."""
    device_ms: float | None = None
    """Median time of the two transfers alone, by CUDA events; None as for `median_ms`, and in version 2."""


class DeviceTiming(_Explained):
    """Calls on a GPU by its own clock, and with several of them in flight."""

    median_ms: float
    """Median time between a CUDA event before a call and one behind it, each call alone on the GPU: what `median_ms` of
    the result is without the way there and back. A GPU that waits for launches waits within it."""
    spread_ms: float
    """Half the distance between the quartiles of these times."""
    enqueue_ms: float
    """Median time that the host takes to queue a call. Where it is near `median_ms`, the host is what limits."""
    seconds: float
    """What all timed calls lasted together, at least 3."""
    in_flight: int
    """Calls that the GPU had at a time for the figures below."""
    pipelined_ms: float
    """Time from the end of a call to the end of the next one; median over the turns of their means."""
    pipelined_spread_ms: float
    """Half the distance between the quartiles of these means."""
    pipelined_images_per_second: float
    """Batch size over `pipelined_ms`."""


class Roofline(_Explained):
    """A candidate's speed against the fastest that this machine's arithmetic and memory allow."""

    gflops_per_second: float
    """Operations of convolutions and matrix products (two for each multiply-add) over the median, in billions."""
    precision_share: dict[Precision, float]
    """Share of these operations by the precision that they are computed in, 0 to 1."""
    least_bytes: int
    """Input, output and weights, each moved once: no way of computing moves less."""
    layer_bytes: int | None
    """What layers move that are computed one by one and share nothing; None where the graph does not tell."""
    limit: Literal["arithmetic", "memory"] | None
    """What bounds the time from below: operations at the measured peak, or `least_bytes` at the measured copy."""
    share: float | None
    """That bound over the median, 0 to 1; None where the peak of a precision is unknown. Above 1 where convolutions are
    computed with fewer operations than they are counted as (Winograd)."""


class BenchResult(_Explained):
    """One candidate on one shape."""

    candidate: str
    """Backend, precision and variant, as in `openvino:fp32+fixed`."""
    backend_version: str
    """Version of the backend."""
    rewrites: tuple[str, ...] = ()
    """What its runner changed in the graph when it opened the file, by the names in docs/graph.md."""
    device: str
    """What it ran on, as in `cpu`."""
    shape: str
    """Of the input, as in `1x64x128` (batch, height, width)."""
    arrays: Literal["host", "device"]
    """Where input and output of the timed calls lie: with `device` there are no copies in them."""
    warm_up_calls: int
    """Untimed calls before the rounds."""
    steady: bool
    """Whether the last of these took the same time, within 10 %; if not, the time for warming up was spent."""
    calls: int
    """Timed calls, over all rounds."""
    median_ms: float
    """Median time of a call."""
    p95_ms: float
    """95th percentile of the calls."""
    p99_ms: float
    """99th percentile of the calls."""
    spread_ms: float
    """Half the distance between the quartiles of the calls."""
    images_per_second: float
    """Batch size over the median."""
    input_megapixels_per_second: float
    """Low-resolution pixels over the median."""
    output_megapixels_per_second: float
    """Upscaled pixels over the median."""
    peak_memory_mib: float
    """Greatest resident memory of a process that ran this candidate alone, its libraries included, without files."""
    import_memory_mib: float
    """Of these, resident before the model was loaded: Python and the backend's library."""
    device_memory_mib: float | None
    """GPU memory that loading and running it took, with several calls in flight, without CUDA's own; only the baseline
    was loaded besides (in version 2 all others). None on a CPU, and where no torch is loaded that could tell."""
    speedup: float
    """Times as fast as the baseline: median over the rounds of the ratio within a round; 1 for the baseline."""
    speedup_low: float
    """10th percentile of these ratios."""
    speedup_high: float
    """90th percentile of them."""
    cold_start: ColdStart
    """What the first result costs."""
    end_to_end: EndToEnd
    """From file to file."""
    host_copies: HostCopies | None
    """Copies to and from the GPU; None on a CPU, where there are none."""
    device_timing: DeviceTiming | None = None
    """By the GPU's clock; None on a CPU, where the backend takes arrays of the host, and in version 2."""
    roofline: Roofline | None
    """Its speed against this machine's; None where the operations of the network are unknown."""
    parity: Parity
    """How near its output is to the reference's."""


class ShapeRun(_Explained):
    """What the candidates of one shape have in common."""

    shape: str
    """Of the input, as in `1x64x128` (batch, height, width)."""
    sha256: str
    """Hash of the input: its shape and its samples, as float32 in the machine's order of bytes."""
    rounds: int
    """Rounds in which every candidate had its turn; where they took turns with the baseline one after the other, as on
    a GPU, the fewest that one had."""
    others_load: float | None
    """Mean number of processors that other processes kept busy during the rounds, the greatest where there were several
    groups; None where unknown."""
    conditions: Conditions
    """Clocks, power and throttling during the rounds, as far as the machine tells."""


class LeftOut(_Explained):
    """A candidate that was not timed."""

    candidate: str
    """Backend, precision and variant."""
    reason: str
    """Why not, and what would make it run."""


class BenchReport(_Explained):
    """What `sr-deploy bench` measured."""

    schema_version: Literal[2, 3] = SCHEMA_VERSION
    """Raised when a reader of an older version could misread the document."""
    measured_at: str
    """UTC, ISO 8601."""
    command: str
    """Command line that measured it."""
    machine: Machine
    """What it was measured on."""
    threads: int
    """Threads of the CPU that each candidate had."""
    clock_lock: ClockLock | None = None
    """The clock that the GPU was to keep; None: none was asked for."""
    peaks: tuple[Peaks, ...]
    """What this machine's arithmetic and memory reach, for each device that a candidate ran on."""
    versions: dict[str, str]
    """Name and version of everything that was used."""
    model: str
    """Name of the model's file or folder."""
    model_sha256: str
    """Hash of the reference's file: the weights, or the graph where there are none."""
    scale: int
    """Output pixels per input pixel along each side."""
    channels: int
    """Of the images, 1 or 3."""
    content: str
    """What the inputs show."""
    reference: str
    """What parity is measured against."""
    baseline: str
    """The candidate that speed-ups are against."""
    runs: tuple[ShapeRun, ...]
    """One for each shape."""
    results: tuple[BenchResult, ...]
    """By shape; verified candidates first, the fastest of them at the top."""
    left_out: tuple[LeftOut, ...]
    """What was not timed, and why."""

    def results_of(self, shape: str) -> tuple[BenchResult, ...]:
        """Those of one shape, in their order."""
        return tuple(result for result in self.results if result.shape == shape)


def read_report(path: Path) -> BenchReport:
    """A report that `sr-deploy bench --json` printed.

    Raises:
        InputError: no such file, or no report of this schema.
    """
    document = read_json(require_file(path, "a report of sr-deploy bench --json"))
    try:
        return BenchReport.model_validate(document)
    except ValidationError as error:
        problem = first_problem(error, "the document")
        raise InputError(
            f"{path} is not a report of schema version {SCHEMA_VERSION} ({problem}); make one with: "
            "sr-deploy bench --json"
        ) from error
