"""The JSON documents of a bundle. Schema version 1; each field is explained where it stands."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sr_deploy.arch.spec import ArchSpec
from sr_deploy.backends import Backend, Precision
from sr_deploy.bundle.profile import Profile
from sr_deploy.bundle.thresholds import DEFAULT_THRESHOLDS, Thresholds

SCHEMA_VERSION: Literal[1] = 1


class _Record(BaseModel):
    # An output that is not finite has an infinite error, which JSON has no number for: it is written "Infinity".
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class FileRecord(_Record):
    """A file of the bundle and what it must hash to."""

    file: str
    """Path relative to the bundle."""
    sha256: str
    """SHA-256 of its bytes."""


class GraphRecord(FileRecord):
    """An ONNX graph of the bundle."""

    precision: Precision
    """Precision of its convolutions."""


class SourceRecord(_Record):
    """Where the weights came from."""

    file: str
    """File name of the checkpoint (no folder: bundles travel)."""
    sha256: str
    """SHA-256 of the checkpoint."""
    layout: str
    """Layout it was recognised by, as `sr-deploy info` prints it."""


class Manifest(_Record):
    """`bundle.json`: what a deployment is made of. Never changed after it was written."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """Raised when a reader of an older version could misread the file."""
    name: str
    """Name of the deployment, the folder's name when it was made."""
    created_at: str
    """UTC, ISO 8601; the newest bundle is the one with the greatest value."""
    arch: ArchSpec
    """The network."""
    input_multiple: int = 1
    """Height and width must be multiples of this; `upscale` pads, other callers pad by themselves."""
    source: SourceRecord
    """Where the weights came from."""
    reference: FileRecord
    """The PyTorch weights that every artefact is compared with."""
    graphs: tuple[GraphRecord, ...]
    """ONNX graphs, fp32 first."""
    rewrites: tuple[str, ...] = ()
    """Rewrites that were applied to the graphs, by their names in docs/graph.md."""
    profiles: tuple[Profile, ...] = Field(min_length=1)
    """What engines are built for."""
    thresholds: dict[Precision, Thresholds] = {}
    """What verification asks of each precision; one that is left out has the default's."""
    tools: dict[str, str]
    """Name and version of everything that had a hand in it."""

    def graph(self, precision: Precision) -> GraphRecord | None:
        """The graph of that precision, if the bundle has one."""
        return next((graph for graph in self.graphs if graph.precision == precision), None)

    def thresholds_for(self, precision: Precision) -> Thresholds:
        """What verification asks of that precision."""
        return self.thresholds.get(precision, DEFAULT_THRESHOLDS[precision])


class EngineRecord(_Record):
    """`engines/<key>.json`: what an engine was built from, with and for."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """As in the manifest."""
    key: str
    """`engine_key` of the fields below up to `flags`."""
    graph_sha256: str
    """Hash of the ONNX graph it was built from."""
    precision: Precision
    """Precision of that graph."""
    backend: Backend
    """`tensorrt` or `tensorrt-rtx`."""
    backend_version: str
    """Version of the builder; an engine runs on this version alone."""
    target: str
    """Name of the GPU it was built on and for, or the compute capabilities, as in `sm86+sm89`."""
    profiles: tuple[Profile, ...]
    """Shapes it takes."""
    flags: dict[str, str]
    """Every other setting of the builder."""
    engine: FileRecord
    """The engine file, relative to the bundle."""
    layer_precisions: dict[str, int]
    """Declared: layers of the parsed strongly typed network by output type, as in `{"HALF": 40, "FLOAT": 2}`."""
    convolution_precisions: dict[str, int] = {}
    """Declared: the convolutions among them, where nearly all the work is."""
    inspected: str
    """What the built engine says of its layers' precision, or why it was not asked."""
    build_seconds: float
    """Time the builder took."""
    built_at: str
    """UTC, ISO 8601."""


class Measurement(_Record):
    """One comparison of an artefact's output with the reference's."""

    shape: str
    """Input, `NxHxW`."""
    content: str
    """What the input shows, as in `photograph`."""
    max_abs: float
    """Greatest absolute difference of unclamped outputs, in units of the [0, 1] range."""
    psnr_db: float | None
    """PSNR of outputs clamped to [0, 1], peak 1.0, in dB; None if they are equal."""
    changed_8bit: float
    """Share of the samples that differ after rounding to 8 bit, 0 to 1."""


class CertificateEntry(_Record):
    """What was measured of one artefact on one machine."""

    artefact: FileRecord
    """The very file that was run."""
    precision: Precision
    """Precision of the artefact's graph."""
    backend: str
    """Who computed, as in `onnxruntime:fp16`."""
    backend_version: str
    """Its version."""
    rewrites: tuple[str, ...] = ()
    """What the runner changed in the graph when it opened the file, by the names in docs/graph.md."""
    machine: str
    """Processor or GPU that ran it."""
    reference: str
    """What it was compared with, as in `torch:fp32`."""
    reference_sha256: str
    """Hash of the reference's weights."""
    measured_at: str
    """UTC, ISO 8601."""
    thresholds: dict[str, float]
    """`max_abs` (at most) and `psnr_db` (at least) that had to be met. Where a graph has ends of other types than
    float32, both allow for their `rounding`, half a step of the type, which stands here too."""
    measurements: tuple[Measurement, ...]
    """One for each input."""
    worst_max_abs: float
    """Over all measurements."""
    worst_psnr_db: float | None
    """Over all measurements; None if all outputs are equal."""
    passed: bool
    """Whether every measurement met the thresholds."""


class Certificate(_Record):
    """`certificate.json`: one entry for each artefact, backend and machine."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """As in the manifest."""
    entries: tuple[CertificateEntry, ...] = ()
    """Newest measurement of each."""

    def with_entry(self, entry: CertificateEntry) -> Certificate:
        """A copy in which `entry` replaces what was measured of the same file by the same backend and machine."""

        def identity(other: CertificateEntry) -> tuple[str, str, str]:
            return other.artefact.file, other.backend, other.machine

        kept = tuple(other for other in self.entries if identity(other) != identity(entry))
        return Certificate(entries=(*kept, entry))


def engine_key(
    *,
    graph_sha256: str,
    backend: Backend,
    backend_version: str,
    target: str,
    profiles: tuple[Profile, ...],
    flags: dict[str, str],
) -> str:
    """16 hexadecimal digits that change when anything changes that an engine depends on."""
    document = {
        "graph": graph_sha256,
        "backend": backend,
        "backend_version": backend_version,
        "target": target,
        "profiles": [profile.model_dump(mode="json") for profile in profiles],
        "flags": dict(sorted(flags.items())),
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]
