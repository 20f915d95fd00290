"""What was measured and found of a bundle: `certificate.json`. Schema version 1; docs/certificate.md explains it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, NonNegativeInt

from sr_deploy.backends import Precision
from sr_deploy.bundle.records import SCHEMA_VERSION, FileName, FileRecord, Record, Sha256, Share, Timestamp
from sr_deploy.bundle.thresholds import MAX_DB
from sr_deploy.bundle.tolerance import Fp32Rounding, derive_floor, derive_limit

Place = tuple[str, tuple[str, ...]]
"""Name of a processor and its instruction sets, or of a GPU and none."""
# Of NaN pydantic's bounds refuse all, so no figure is one; an error may be infinite.
Error = Annotated[float, Field(ge=0)]
Decibels = Annotated[float, Field(ge=0, le=MAX_DB, allow_inf_nan=False)]


class WorstPlace(Record):
    """Where an output is furthest from the reference's."""

    image: NonNegativeInt
    """Place in the batch, from 0."""
    channel: NonNegativeInt
    """From 0."""
    y: NonNegativeInt
    """Row of the output."""
    x: NonNegativeInt
    """Column of the output."""


class Measurement(Record):
    """One comparison of an artifact's output with the reference's."""

    shape: str = Field(pattern=r"^[0-9]{1,6}x[0-9]{1,6}x[0-9]{1,6}$")
    """Of the input, as in `1x64x128` (batch, height, width)."""
    content: str
    """What the input shows, as in `photograph` or `checkerboard`."""
    max_abs: Error
    """Greatest absolute difference of unclamped outputs, in units of the [0, 1] range."""
    psnr_db: Decibels | None
    """PSNR of outputs clamped to [0, 1], peak 1.0, in dB; None if they are equal."""
    changed_8bit: Share
    """Share of the samples that differ after rounding to 8 bit, 0 to 1."""
    changed_8bit_more: Share | None = None
    """Share of the samples that differ by more than one step after rounding to 8 bit. This and what follows is None in
    entries that an older sr-deploy wrote."""
    mean_abs: Error | None = None
    """Mean absolute difference of unclamped outputs."""
    ssim: Annotated[float, Field(ge=-1, le=1 + 1e-9)] | None = None
    """SSIM of outputs clamped to [0, 1]; None too where a side has less than 11 pixels or a value is not finite."""
    worst: WorstPlace | None = None
    """Where `max_abs` is; None too if the outputs are equal, or no output came."""
    allowed: Error | None = None
    """What `max_abs` could be on this input, where that is more than the entry's threshold: FP16 I/O rounds values
    beyond 2 more coarsely, or FP32 itself rounds more. At most half an 8-bit step more. None: the threshold."""
    needed_db: Decibels | None = None
    """What `psnr_db` had to be on this input, where that is less than the entry's threshold, since FP32 itself rounds
    more. None: the threshold."""
    fp32_rounding: Fp32Rounding | None = None
    """What `allowed` and `needed_db` are derived from. None: not measured, since the thresholds were met with room to
    spare, or of another precision than FP32."""
    reference: str | None = None
    """What this input was compared with, where that is not the entry's reference: `torch:fp32`, PyTorch in FP32 in its
    default memory layout, where float64 takes too long or too much memory."""


class CertificateEntry(Record):
    """What was measured of one artifact on one machine."""

    artifact: FileRecord
    """The very file that was run."""
    precision: Precision
    """Precision of the artifact's graph."""
    backend: str
    """Who computed, as in `onnxruntime:fp16`."""
    backend_version: str
    rewrites: tuple[str, ...] = ()
    """What the runner changed in the graph when it opened the file, by the names in docs/graph.md."""
    machine: str
    """Processor or GPU that ran it."""
    cpu_features: tuple[str, ...] = ()
    """Instruction sets of the processor that matter for convolutions: names of processors in virtual machines do not
    tell generations apart. Empty where a GPU computed, and in entries that an older sr-deploy wrote."""
    reference: str
    """What it was compared with: `torch:fp64`, or what stands in where there are no PyTorch weights. Entries that an
    older sr-deploy wrote have `torch:fp32`."""
    reference_sha256: Sha256
    """Hash of the reference's weights."""
    measured_at: Timestamp
    """UTC, ISO 8601."""
    thresholds: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    """`max_abs` (at most) and `psnr_db` (at least) that had to be met. Where a graph has another I/O type than
    float32, both allow for their `rounding`, half a step of the type, which is stored here too."""
    measurements: tuple[Measurement, ...]
    """One for each input."""
    judged: tuple[str, ...] = ()
    """Contents that the thresholds were held to, and that the worst figures are of; empty: all. INT8 computes in ranges
    that were calibrated on photographs, so it is judged on photographs; what else was run is there to be seen."""
    left_out: tuple[str, ...] = ()
    """Shapes of the grid that were not run, with the reason, one line each."""
    worst_max_abs: Error
    """Over all judged measurements."""
    worst_psnr_db: Decibels | None
    """Over all judged measurements; None if all outputs are equal."""
    drop_db: FiniteFloat | None = None
    """Of INT8 with the rest in BF16: what it surely loses against photographs, the mean over crops less two standard
    errors, in dB of PSNR. It is within the budget that the graph was made for, or the entry did not pass."""
    passed: bool
    """Whether every judged measurement met the thresholds and every output was finite."""

    @property
    def judged_measurements(self) -> tuple[Measurement, ...]:
        """Those that the thresholds were held to: of the judged contents, or all where none of these was shown."""
        return tuple(one for one in self.measurements if one.content in self.judged) or self.measurements

    def limit_of(self, measurement: Measurement) -> float:
        """What `max_abs` of one of its inputs may be; infinite where nothing is asked."""
        limit = self.thresholds.get("max_abs", math.inf)
        return limit if measurement.allowed is None else max(limit, measurement.allowed)

    def floor_of(self, measurement: Measurement) -> float:
        """What `psnr_db` of one of its inputs has to be; 0 where nothing is asked."""
        floor = self.thresholds.get("psnr_db", 0.0)
        return floor if measurement.needed_db is None else min(floor, measurement.needed_db)

    def derive_allowance(self, rounding: Fp32Rounding) -> tuple[float, float]:
        """The greatest difference and the PSNR that FP32's own rounding on an input allows, whatever is written there.

        An entry of another precision has its thresholds alone.
        """
        limit, floor = self.thresholds.get("max_abs", math.inf), self.thresholds.get("psnr_db", 0.0)
        if self.precision != "fp32":
            return limit, floor
        io_rounding = self.thresholds.get("rounding", 0.0)
        return derive_limit(limit, rounding, io_rounding), derive_floor(floor, rounding, io_rounding)

    @property
    def shortfalls(self) -> tuple[Measurement, ...]:
        """Measurements that miss the thresholds: of those that were judged, and infinite or NaN outputs of any."""

        def misses(one: Measurement) -> bool:
            return one.max_abs > self.limit_of(one) or (one.psnr_db is not None and one.psnr_db < self.floor_of(one))

        judged = set(map(id, self.judged_measurements))
        return tuple(one for one in self.measurements if math.isinf(one.max_abs) or (id(one) in judged and misses(one)))

    @property
    def sound(self) -> bool:
        """Whether it says that it passed, and its figures say so too. One without figures is not."""
        return self.passed and bool(self.measurements) and not self.shortfalls

    @property
    def place(self) -> Place:
        """Which machine, as far as its name and instruction sets tell: virtual processors of one name differ."""
        return self.machine, self.cpu_features

    @property
    def place_title(self) -> str:
        """As in `AMD EPYC with avx2, avx512f`."""
        return self.machine + (f" with {', '.join(self.cpu_features)}" if self.cpu_features else "")

    @property
    def identity(self) -> tuple[str, str, str, tuple[str, ...]]:
        """File, backend and machine: the newest measurement of each stays."""
        return self.artifact.file, self.backend, self.machine, self.cpu_features


class Check(Record):
    """Something that was looked at in a file, without running it."""

    kind: Literal["weights", "precision", "engine", "certificate", "drop", "source", "calibration", "signature"]
    """What was looked at, as docs/certificate.md explains it."""
    file: FileName
    """The file that it is about, relative to the bundle."""
    sha256: Sha256 | None
    """Hash of that file as it was; None for `certificate.json` itself."""
    what: str
    """What was compared with what and how closely it has to agree, one sentence."""
    depth: int = Field(default=0, ge=0)
    """How thorough it is among those of its kind: while the file stays the same, what a deeper one found is not
    cleared by a shallower one that finds nothing."""
    findings: tuple[str, ...] = ()
    """What is wrong, one line each, each naming the tensor, node or field."""
    not_checked: str = ""
    """Why it could not be done here, with the way out; empty: it was done. Such a check clears nothing."""
    checked_at: Timestamp
    """UTC, ISO 8601."""

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong; true too of what was not checked."""
        return not self.findings

    def clears(self, other: Check) -> bool:
        """Whether this newer check of the same kind and file takes the other's place, its findings included."""
        if (self.kind, self.file) != (other.kind, other.file):
            return False
        if self.sha256 != other.sha256 or not other.findings:
            return True
        return not self.not_checked and self.depth >= other.depth


class BudgetStage(Record):
    """One step on the way from the trained network to a picture on disk."""

    name: str
    """As in `ONNX FP16`."""
    runs: str
    """What was run: backend, or what was done to the output."""
    file: FileName | None = None
    """The file that was run, relative to the bundle."""
    psnr_db: FiniteFloat | None
    """Against PyTorch in FP32, outputs clamped to [0, 1], peak 1.0, in dB; None if equal."""
    step_psnr_db: FiniteFloat | None
    """Against the stage before; None if equal."""
    truth_psnr_db: FiniteFloat | None
    """Against the photographs that the inputs were made of, in dB; None if equal."""
    lost_db: FiniteFloat
    """How much of `truth_psnr_db` this stage lost against the one before; negative: gained by chance."""


class ErrorBudget(Record):
    """Where the tenths of a dB go: one chain of stages, on the same photographs throughout."""

    precision: Precision
    """Of the chain's graph."""
    file: FileName
    """That graph, relative to the bundle."""
    sha256: Sha256
    machine: str
    """Processor or GPU that ran it."""
    inputs: str
    """What was shown, as in `2 photographs of 64x128`."""
    measured_at: Timestamp
    """UTC, ISO 8601."""
    stages: tuple[BudgetStage, ...] = Field(min_length=1)
    """In their order, PyTorch first."""

    @property
    def worst_stage(self) -> BudgetStage:
        """The one that lost most against the photographs."""
        return max(self.stages, key=lambda stage: stage.lost_db)

    @property
    def drop_db(self) -> float:
        """What the graphs lost against the photographs, without tiles and 8 bit."""
        return sum(stage.lost_db for stage in self.stages if stage.file is not None)


class Acceptance(Record):
    """A finding that somebody accepted by name with `verify --accept`."""

    name: str
    """As the verdict names it, as in `model.fp16.onnx (weights)`."""
    sha256: Sha256 | None
    """Hash of the file that it is about; of another file nothing is accepted. None for `certificate.json` itself."""
    what: tuple[str, ...]
    """What was accepted: the finding's lines. Other lines of the same name are another finding."""
    by: str
    """User and machine, as in `user@host`."""
    accepted_at: Timestamp
    """UTC, ISO 8601."""


class NotRun(Record):
    """Something that a machine could not run."""

    what: str
    """Backend and precision, with the engine's file if it is one."""
    file: FileName | None = None
    """The engine's file, relative to the bundle; None where a backend is missing."""
    reason: str
    """Why not, and what would."""


class LastVerification(Record):
    """What the last `export`, `build` or `verify` came to; readers make the verdict anew of what is stored here."""

    verdict: Literal["verified", "incomplete", "failed"]
    """As docs/certificate.md explains them."""
    at: Timestamp
    """UTC, ISO 8601."""
    machine: str
    """Processor of the machine."""
    asked: tuple[Precision, ...] | None = None
    """Precisions whose graphs it was about, as `--backend` narrows it; None: all."""
    ran: tuple[FileRecord, ...] = ()
    """Graphs and engines that a backend ran."""
    not_run: tuple[NotRun, ...] = ()
    """What it could not run, and why."""


class Certificate(Record):
    """`certificate.json`: one entry for each artifact, backend and machine, and what was found without running."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """As in the manifest."""
    entries: tuple[CertificateEntry, ...] = ()
    """Newest measurement of each."""
    checks: tuple[Check, ...] = ()
    """Newest of each kind for each file, and deeper ones that found something which the newest did not look for."""
    error_budgets: tuple[ErrorBudget, ...] = ()
    """Newest for each precision and machine."""
    accepted: tuple[Acceptance, ...] = ()
    """Findings that were accepted; one counts only for the user who accepted it."""
    last: LastVerification | None = None
    """The last verdict; None in certificates that an older sr-deploy wrote."""

    def with_entry(self, entry: CertificateEntry) -> Certificate:
        """A copy in which `entry` replaces what was measured of the same file by the same backend and machine.

        One that failed stays where the new one was not shown the inputs that it failed on: they were left out, not
        found to be right.
        """
        before = next((other for other in self.entries if other.identity == entry.identity), None)
        if before is not None and before.artifact == entry.artifact and entry.sound:
            shown = {(one.shape, one.content) for one in entry.measurements}
            if any((one.shape, one.content) not in shown for one in before.shortfalls):
                return self
        kept = tuple(other for other in self.entries if other.identity != entry.identity)
        return self.model_copy(update={"entries": (*kept, entry)})

    def with_checks(self, checks: Sequence[Check]) -> Certificate:
        """A copy in which `checks` replace those of the same kinds and files that they clear (`Check.clears`)."""
        kept = tuple(old for old in self.checks if not any(new.clears(old) for new in checks))
        return self.model_copy(update={"checks": (*kept, *checks)})

    def with_error_budget(self, budget: ErrorBudget) -> Certificate:
        """A copy in which `budget` replaces that of the same precision and machine."""
        identity = (budget.precision, budget.machine)
        kept = tuple(other for other in self.error_budgets if (other.precision, other.machine) != identity)
        return self.model_copy(update={"error_budgets": (*kept, budget)})

    def files(self) -> tuple[str, ...]:
        """Every file that it speaks of."""
        named = [entry.artifact.file for entry in self.entries] + [check.file for check in self.checks]
        named += [stage.file for budget in self.error_budgets for stage in budget.stages if stage.file is not None]
        return tuple(dict.fromkeys(named))

    def without_file(self, file: str) -> Certificate:
        """A copy that says nothing of a file that is gone."""
        return self.model_copy(
            update={
                "entries": tuple(entry for entry in self.entries if entry.artifact.file != file),
                "checks": tuple(check for check in self.checks if check.file != file),
                "error_budgets": tuple(
                    budget for budget in self.error_budgets if file not in {stage.file for stage in budget.stages}
                ),
            }
        )
