"""The JSON documents of a bundle. Schema version 1; each field is explained at its definition."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, FiniteFloat, NonNegativeInt, model_validator

from sr_deploy.arch.registry import architecture_names
from sr_deploy.arch.spec import ArchSpec, Attribution, Line
from sr_deploy.backends import QUANTIZED, Precision
from sr_deploy.backends.registry import builder_names
from sr_deploy.bundle.engine_options import EnginePlan
from sr_deploy.bundle.profile import Profile
from sr_deploy.bundle.thresholds import (
    DEFAULT_MAX_DROP_DB,
    DEFAULT_MAX_PIXEL_ERROR,
    DEFAULT_THRESHOLDS,
    Looser,
    Thresholds,
    list_looser,
)
from sr_deploy.config import Document
from sr_deploy.untrusted import check_component, check_relative

SCHEMA_VERSION: Literal[1] = 1
ENGINES_FOLDER = "engines"
_PLAIN_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}"
_MAX_PROFILES = 64


def _check_time(text: str) -> str:
    datetime.fromisoformat(text)  # whose ValueError says what is wrong
    return text


FileName = Annotated[str, AfterValidator(check_relative)]
"""A file of the folder that a document lies in, relative to it."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""64 hexadecimal digits."""
Timestamp = Annotated[str, AfterValidator(_check_time)]
"""UTC, ISO 8601."""
Share = Annotated[float, Field(ge=0, le=1 + 1e-9, allow_inf_nan=False)]
"""0 to 1, and what the sum of many shares may be above it."""


class Record(Document):
    """A document, or a part of one, with measured numbers; what is not known is refused."""

    # An output that is not finite has an infinite error, which JSON cannot hold: it is written "Infinity".
    model_config = ConfigDict(ser_json_inf_nan="strings")


class FileRecord(Record):
    """A file of the bundle and what it must hash to."""

    file: FileName
    """Path relative to the bundle."""
    sha256: Sha256


class GraphRecord(FileRecord):
    """An ONNX graph of the bundle."""

    precision: Precision
    """Precision of its convolutions."""
    planned_fp32: tuple[str, ...] = ()
    """Nodes of a lower-precision graph whose multiply-adds stay in FP32 on purpose; any other one in FP32 is an
    error."""
    int8_share: Share | None = None
    """Share of the multiply-adds in INT8, 0 to 1; None for graphs that are not INT8."""


class Int8Record(Record):
    """What was asked of INT8 or FP8 and what came of it, measured when the bundle was made, on held-out photographs."""

    max_drop_db: Annotated[FiniteFloat, Field(ge=0)]
    """The budget: PSNR on luma against ground truth that may be lost, in dB, upper end of the 95 % interval."""
    max_pixel_error: Annotated[FiniteFloat, Field(gt=0)]
    """The budget: greatest difference from FP32 of any mean over 5x5 pixels, outputs clamped to [0, 1]."""
    drop_db: FiniteFloat
    """What is lost, mean over the crops."""
    upper_db: FiniteFloat | None = None
    """Upper end of its interval; None where an older sr-deploy held the mean to the budget."""
    visible: Annotated[FiniteFloat, Field(ge=0)] | None = None
    """That greatest difference; None where an older sr-deploy held the worst sample to the budget."""
    max_abs: Annotated[FiniteFloat, Field(ge=0)]
    """Greatest difference of any sample."""
    psnr_fp32_db: FiniteFloat
    """PSNR against FP32, in dB."""
    share: Share
    """Share of the multiply-adds that is quantized, 0 to 1."""
    passed: bool
    """Whether it is within the budget; false: kept with `--force`."""
    report: FileRecord
    """The whole search: layers, curve, settings."""
    picture: FileRecord
    """Its plot: loss over the share that is quantized."""

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """The report and the plot."""
        return self.report, self.picture

    def describe_loss(self) -> str:
        """What is lost and what is allowed, for people."""
        allowed = f"{self.max_drop_db:g} allowed"
        upper = "" if self.upper_db is None else f", at most {self.upper_db:.4f}"
        name, greatest = ("worst sample", self.max_abs) if self.visible is None else ("visible error", self.visible)
        return (
            f"{self.drop_db:.4f} dB lost on held-out photographs{upper} ({allowed}), {name} {greatest:.2g} "
            f"({self.max_pixel_error:g} allowed)"
        )


class SourceRecord(Record):
    """Where the weights came from."""

    file: str
    """File name of the checkpoint (no folder: bundles travel)."""
    sha256: Sha256
    """SHA-256 of the checkpoint."""
    layout: str
    """Layout it was recognized by, as `sr-deploy info` prints it."""
    license: Line = None
    """Under which the weights may be used, as who exported them stated it or as the checkpoint says; None: not
    recorded."""
    author: Line = None
    """Who trained them, likewise."""
    source: Line = None
    """Where they were published, likewise."""

    @property
    def attribution(self) -> Attribution:
        """Whose the weights are."""
        return Attribution(license=self.license, author=self.author, source=self.source)


class Manifest(Record):
    """`bundle.json`: what a deployment is made of. Never changed after it was written."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """Raised when a reader of an older version could misread the file."""
    name: Annotated[str, AfterValidator(check_component)]
    """Name of the deployment, the folder's name when it was made."""
    created_at: Timestamp
    """UTC, ISO 8601; the newest bundle is the one with the greatest value."""
    arch: ArchSpec
    input_multiple: int = Field(default=1, ge=1, le=64)
    """Height and width must be multiples of this; `upscale` pads, other callers pad by themselves."""
    source: SourceRecord
    """Where the weights came from."""
    reference: FileRecord
    """The PyTorch weights that every artifact is compared with."""
    graphs: tuple[GraphRecord, ...]
    """ONNX graphs, fp32 first."""
    rewrites: tuple[str, ...] = ()
    """Rewrites that were applied to the graphs, by their names in docs/graph.md."""
    profiles: tuple[Profile, ...] = Field(min_length=1, max_length=_MAX_PROFILES)
    """What engines are built for."""
    engine: EnginePlan = EnginePlan()
    """How engines are built."""
    thresholds: dict[Precision, Thresholds] = Field(default_factory=dict)
    """What verification asks of each precision; one that is left out has the default's."""
    int8: Int8Record | None = None
    """The search for INT8; None where there is no INT8 graph."""
    fp8: Int8Record | None = None
    """The search for FP8; None where there is no FP8 graph."""
    tools: dict[str, str]
    """Name and version of everything that was used."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        for problem in _list_contradictions(self):
            raise ValueError(problem)
        return self

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """Every file that the bundle is made of, the manifest itself left out."""
        found = [file for search in self.searches.values() for file in search.files]
        return (self.reference, *self.graphs, *found)

    @property
    def searches(self) -> dict[Precision, Int8Record]:
        """What came of the search for each quantized precision that there is."""
        found: dict[Precision, Int8Record | None] = {"int8": self.int8, "fp8": self.fp8}
        return {precision: search for precision, search in found.items() if search is not None}

    def graph(self, precision: Precision) -> GraphRecord | None:
        """The graph of that precision, if the bundle has one."""
        return next((graph for graph in self.graphs if graph.precision == precision), None)

    def thresholds_for(self, precision: Precision) -> Thresholds:
        """What verification asks of that precision."""
        return self.thresholds.get(precision, DEFAULT_THRESHOLDS[precision])

    def list_looser(self) -> tuple[Looser, ...]:
        """Thresholds and budgets of its graphs that ask for less than the defaults."""
        looser = [*list_looser(self.thresholds, [graph.precision for graph in self.graphs])]
        for precision, search in self.searches.items():
            if search.max_drop_db > DEFAULT_MAX_DROP_DB:
                looser.append(Looser(precision, "max_drop_db", search.max_drop_db, DEFAULT_MAX_DROP_DB))
            if search.max_pixel_error > DEFAULT_MAX_PIXEL_ERROR:
                looser.append(Looser(precision, "max_pixel_error", search.max_pixel_error, DEFAULT_MAX_PIXEL_ERROR))
        return tuple(looser)


class EngineRecord(Record):
    """`engines/<key>.json`: what an engine was built from, with and for."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """As in the manifest."""
    key: str = Field(pattern=r"^[0-9a-f]{16}$")
    """`engine_key` of the fields below up to `flags`."""
    graph_sha256: Sha256
    """Hash of the ONNX graph it was built from."""
    precision: Precision
    backend: str
    """Which SDK built it, and runs it."""
    backend_version: str
    """Version of the builder; an engine runs on this version alone."""
    target: str
    """Name of the GPU it was built on and for, or the compute capabilities, as in `sm86+sm89`."""
    profiles: tuple[Profile, ...] = Field(min_length=1, max_length=_MAX_PROFILES)
    """Shapes of the input that it takes."""
    flags: dict[str, str]
    """Every other setting of the builder."""
    engine: FileRecord
    """The engine file, relative to the bundle."""
    layer_precisions: dict[str, NonNegativeInt]
    """Declared: layers of the parsed strongly typed network by output type, as in `{"HALF": 40, "FLOAT": 2}`."""
    convolution_precisions: dict[str, NonNegativeInt] = Field(default_factory=dict)
    """Declared: the convolutions among them, where nearly all the work is."""
    declared: dict[str, Precision] = Field(default_factory=dict)
    """Declared: precision of every layer that multiplies and adds, by the name of its ONNX node. Empty in records that
    an older sr-deploy wrote."""
    multiply_add_shares: dict[str, Share] = Field(default_factory=dict)
    """Declared: share of the multiply-adds in each precision, 0 to 1, as in `{"int8": 0.93, "fp16": 0.07}`."""
    unplanned_layers: tuple[str, ...] = ()
    """Layers of `declared` in another precision than the graph's that nobody planned; no engine with any is kept."""
    inspected: str
    """What the built engine says of its layers' precision, or why it was not asked."""
    build_seconds: Annotated[FiniteFloat, Field(ge=0)]
    built_on: str = ""
    """System, processor and GPU of the machine, as in `Linux x86_64 without a GPU`. Empty in records that an older
    sr-deploy wrote."""
    built_at: Timestamp
    """UTC, ISO 8601."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.backend not in builder_names():
            raise ValueError(f"backend is {self.backend!r}; engines are built for {', '.join(builder_names())}")
        due = f"{ENGINES_FOLDER}/{self.key}.engine"
        if self.engine.file != due:
            raise ValueError(f"engine.file is {self.engine.file!r}; an engine with the key {self.key} is {due}")
        return self


def engine_key(
    *,
    graph_sha256: str,
    backend: str,
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


def _list_contradictions(manifest: Manifest) -> Iterator[str]:
    """What in a manifest cannot be true together, one line each."""
    arch, precisions = manifest.arch, [graph.precision for graph in manifest.graphs]
    if arch.architecture not in architecture_names():
        yield f"arch.architecture is {arch.architecture!r}; known: {', '.join(architecture_names())}"
    if arch.channels not in (1, 3):
        yield f"arch.channels is {arch.channels}; a network has 1 or 3"
    if not precisions or precisions[0] != "fp32" or len(set(precisions)) < len(precisions):
        yield f"graphs are of {', '.join(precisions) or 'none'}; each precision stands once, and fp32 first"
    for quantized in QUANTIZED:
        if (quantized in precisions) != (quantized in manifest.searches):
            yield f"an {quantized} graph and the record {quantized} of its search come together; one of them is missing"
    for graph in manifest.graphs:
        if graph.precision != "int8" and graph.int8_share is not None:
            yield f"{graph.file} is {graph.precision} and has an int8_share"
        if graph.precision == "fp32" and graph.planned_fp32:
            yield f"{graph.file} is fp32 and has planned_fp32"
    multiple = manifest.input_multiple
    for profile in manifest.profiles:
        if any(side % multiple for shape in (profile.min, profile.opt, profile.max) for side in (shape.h, shape.w)):
            yield f"profile {profile.name!r} has sides that are not multiples of input_multiple, which is {multiple}"
    names = [profile.name for profile in manifest.profiles]
    if len(set(names)) < len(names):
        yield f"profiles are named {', '.join(names)}; each needs a name of its own"
    yield from _list_misplaced(manifest)


def _list_misplaced(manifest: Manifest) -> Iterator[str]:
    """Files whose name is not one that a bundle gives to a file of that kind."""
    wanted = [(manifest.reference, ".safetensors"), *((graph, ".onnx") for graph in manifest.graphs)]
    for search in manifest.searches.values():
        drawn = ".png" if search.picture.file.endswith(".png") else ".svg"  # that of small-x2, which ships
        wanted += [(search.report, ".json"), (search.picture, drawn)]
    for record, suffix in wanted:
        if not re.fullmatch(_PLAIN_NAME + re.escape(suffix), record.file):
            yield f"{record.file!r} is not a file of a bundle's own folder that ends with {suffix}"
    names = ["bundle.json", "certificate.json", *(record.file for record, _ in wanted)]
    for name in {name.casefold() for name in names if [one.casefold() for one in names].count(name.casefold()) > 1}:
        yield f"{name} is named more than once; each file has one purpose"
