"""The document of a benchmark. Schema version 1; each field is explained where it stands."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from sr_deploy.measure.machine import Machine

SCHEMA_VERSION: Literal[1] = 1


class _Record(BaseModel):
    # A contender whose output is not finite has an infinite error, which JSON has no number for.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Parity(_Record):
    """A contender's output against the reference's, on the very input that was timed."""

    max_abs: float
    """Greatest absolute difference, unclamped, in units of the [0, 1] range."""
    psnr_db: float | None
    """PSNR clamped to [0, 1], peak 1.0, in dB; None if the outputs are equal."""
    changed_8bit: float
    """Share of the samples that differ after rounding to 8 bit, 0 to 1."""
    verified: bool
    """Whether it is as near as its precision has to come (the thresholds of `sr-deploy verify`)."""


class BenchResult(_Record):
    """One contender on one shape."""

    contender: str
    """Backend and precision, as in `openvino:fp32`."""
    backend_version: str
    """Version of the backend."""
    rewrites: tuple[str, ...] = ()
    """What its runner changed in the graph when it opened the file, by the names in docs/graph.md."""
    device: str
    """What it ran on, as in `cpu`."""
    shape: str
    """Input, `NxHxW`."""
    arrays: Literal["host", "device"]
    """Where input and output lie: copies to and from a GPU are timed with `host`, and there are none with `device`."""
    calls: int
    """Timed calls, over all rounds."""
    rounds: int
    """Rounds in which every contender had its turn."""
    median_ms: float
    """Median time of a call."""
    p95_ms: float
    """95th percentile of the calls."""
    images_per_second: float
    """Batch size over the median."""
    input_megapixels_per_second: float
    """Low-resolution pixels over the median."""
    output_megapixels_per_second: float
    """Upscaled pixels over the median."""
    peak_memory_mib: float
    """Greatest resident memory of a process that ran this contender alone, its libraries included."""
    library_memory_mib: float
    """Of these, resident before the model was loaded: Python and the backend's library."""
    device_memory_mib: float | None
    """GPU memory taken while it ran; None on a CPU."""
    speedup: float
    """Times as fast as the baseline: median over the rounds of the ratio within a round; 1 for the baseline."""
    speedup_low: float
    """10th percentile of these ratios."""
    speedup_high: float
    """90th percentile of them."""
    others_load: float | None
    """Mean number of processors that other processes kept busy during the rounds; None where unknown."""
    parity: Parity
    """How near its output is to the reference's."""


class LeftOut(_Record):
    """A contender that was not timed."""

    contender: str
    """Backend and precision."""
    reason: str
    """Why not, and what would make it run."""


class BenchReport(_Record):
    """What `sr-deploy bench` measured."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """Raised when a reader of an older version could misread the document."""
    measured_at: str
    """UTC, ISO 8601."""
    command: str
    """What was run."""
    machine: Machine
    """Where."""
    threads: int
    """Threads of the CPU that each contender had."""
    versions: dict[str, str]
    """Name and version of everything that had a hand in it."""
    model: str
    """Name of the model's file or folder."""
    model_sha256: str
    """Hash of the reference's file: the weights, or the graph where there are none."""
    scale: int
    """Output pixels per input pixel along each side."""
    channels: int
    """1 or 3."""
    content: str
    """What the inputs show."""
    reference: str
    """What parity is measured against."""
    baseline: str
    """The contender that speed-ups are against."""
    shapes: tuple[str, ...]
    """Inputs, each `NxHxW`."""
    results: tuple[BenchResult, ...]
    """By shape; verified contenders first, the fastest of them at the top."""
    left_out: tuple[LeftOut, ...]
    """What was not timed, and why."""
