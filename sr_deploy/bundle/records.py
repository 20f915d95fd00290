"""The JSON documents of a bundle. Schema version 1; each field is explained where it stands."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sr_deploy.arch.spec import ArchSpec
from sr_deploy.backends import Backend, Precision
from sr_deploy.bundle.engine_options import EnginePlan
from sr_deploy.bundle.profile import Profile
from sr_deploy.bundle.thresholds import DEFAULT_THRESHOLDS, Thresholds

SCHEMA_VERSION: Literal[1] = 1


class Record(BaseModel):
    """A part of a document; nothing in it changes, and what is not known is refused."""

    # An output that is not finite has an infinite error, which JSON has no number for: it is written "Infinity".
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class FileRecord(Record):
    """A file of the bundle and what it must hash to."""

    file: str
    """Path relative to the bundle."""
    sha256: str
    """SHA-256 of its bytes."""


class GraphRecord(FileRecord):
    """An ONNX graph of the bundle."""

    precision: Precision
    """Precision of its convolutions."""
    planned_fp32: tuple[str, ...] = ()
    """Nodes of a lower-precision graph whose multiply-adds stay in FP32 on purpose; any other one in FP32 is an
    error."""
    int8_share: float | None = None
    """Share of the multiply-adds in INT8, 0 to 1; None for graphs that are not quantised."""


class Int8Record(Record):
    """What was asked of INT8 and what came of it, measured when the bundle was made, on held-out photographs."""

    max_drop_db: float
    """The budget: PSNR on luma against ground truth that may be lost, in dB."""
    max_pixel_error: float
    """The budget: greatest difference from FP32 of any sample, outputs clamped to [0, 1]."""
    drop_db: float
    """What is lost."""
    max_abs: float
    """The greatest difference."""
    psnr_fp32_db: float
    """PSNR against FP32, in dB."""
    share: float
    """Share of the multiply-adds in INT8, 0 to 1."""
    passed: bool
    """Whether it is within the budget; false: kept with `--force`."""
    report: FileRecord
    """The whole search: layers, curve, settings."""
    picture: FileRecord | None
    """Its picture; None where matplotlib was not installed."""


class SourceRecord(Record):
    """Where the weights came from."""

    file: str
    """File name of the checkpoint (no folder: bundles travel)."""
    sha256: str
    """SHA-256 of the checkpoint."""
    layout: str
    """Layout it was recognised by, as `sr-deploy info` prints it."""


class Manifest(Record):
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
    engine: EnginePlan = EnginePlan()
    """How engines are built."""
    thresholds: dict[Precision, Thresholds] = {}
    """What verification asks of each precision; one that is left out has the default's."""
    int8: Int8Record | None = None
    """The search for INT8; None where there is no INT8 graph."""
    tools: dict[str, str]
    """Name and version of everything that had a hand in it."""

    def graph(self, precision: Precision) -> GraphRecord | None:
        """The graph of that precision, if the bundle has one."""
        return next((graph for graph in self.graphs if graph.precision == precision), None)

    def thresholds_for(self, precision: Precision) -> Thresholds:
        """What verification asks of that precision."""
        return self.thresholds.get(precision, DEFAULT_THRESHOLDS[precision])


class EngineRecord(Record):
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
    declared: dict[str, Precision] = {}
    """Declared: precision of every layer that multiplies and adds, by the name of its ONNX node. Empty in records that
    an older sr-deploy wrote."""
    multiply_add_shares: dict[str, float] = {}
    """Declared: share of the multiply-adds in each precision, 0 to 1, as in `{"int8": 0.93, "fp16": 0.07}`."""
    unplanned_layers: tuple[str, ...] = ()
    """Layers of `declared` in another precision than the graph's that nobody planned; no engine with any is kept."""
    inspected: str
    """What the built engine says of its layers' precision, or why it was not asked."""
    build_seconds: float
    """Time the builder took."""
    built_at: str
    """UTC, ISO 8601."""


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
