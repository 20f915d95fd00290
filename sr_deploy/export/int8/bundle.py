"""The INT8 or FP8 graph of a bundle, with the report and the picture of its search."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sr_deploy.bundle import Int8Record, record_file
from sr_deploy.bundle.documents import read_record
from sr_deploy.errors import DamagedBundleError, GraphError
from sr_deploy.export.int8.equalize import apply_factors
from sr_deploy.export.int8.make import make_int8_graph
from sr_deploy.export.int8.quantization_options import Int8Options
from sr_deploy.export.int8.search_report import Int8Report, report_name
from sr_deploy.files import write_text
from sr_deploy.graph.load import load_model

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Int8Graph:
    """What was written."""

    record: Int8Record
    """For the bundle's manifest."""
    report: Int8Report
    """The contents of `int8.json` or `fp8.json`."""
    planned_fp32: tuple[str, ...]
    """Convolutions that compute in FP32."""


@dataclass(frozen=True)
class Calibration:
    """What INT8 and FP8 need that no spec says."""

    folder: Path | None = None
    """Photographs in high resolution; None: the bundled ones."""
    force: bool = False
    """Whether a graph that does not meet its budget is kept."""
    optional: bool = False
    """Whether the bundle does without INT8 or FP8 where that does not meet its budget."""
    input_steps: Mapping[str, float] = field(default_factory=dict)
    """That the network was trained for INT8 with, by name of the convolution's module; empty: they are calibrated."""


def load_quantized_source(fp32_path: Path, report_path: Path) -> onnx.ModelProto:
    """The FP32 graph that a quantized graph was made of: a bundle's, with its channels brought to like ranges.

    For audits: every constant of the quantized graph is one of this graph's, cast or quantized, but for corrected
    biases.

    Args:
        fp32_path: the bundle's FP32 graph.
        report_path: the bundle's `int8.json` or `fp8.json`.

    Raises:
        GraphError: a damaged graph.
        DamagedBundleError: a damaged report, or one of another network.
    """
    report = read_record(report_path, Int8Report)
    model = load_model(fp32_path)
    nodes = {node.name for node in model.graph.node}
    tensors = {name for node in model.graph.node for name in node.output}
    named = [("layer", layer.name, nodes) for layer in report.layers]
    named += [("layer", name, nodes) for name in report.shifts]
    named += [("feature map", name, tensors) for name in report.equalized]
    for kind, name, known in named:
        if name not in known:
            raise DamagedBundleError(
                f"{report_path} is of another network: {fp32_path.name} has no {kind} {name!r}; export the bundle again"
            )
    try:
        return apply_factors(model, report.equalized)
    except GraphError as error:
        raise DamagedBundleError(f"{report_path} is of another network: {error}; export the bundle again") from error


def write_int8_graph(
    fp32_path: Path,
    int8_path: Path,
    options: Int8Options,
    calibration: Calibration,
    *,
    keep_fp32: Collection[str] = (),
) -> Int8Graph:
    """Write the graph, the report and the picture into the folder of `int8_path`; errors as `make_int8_graph`."""
    report = make_int8_graph(
        fp32_path,
        int8_path,
        options,
        calibration.folder,
        force=calibration.force,
        keep_fp32=keep_fp32,
        input_steps=calibration.input_steps if options.format == "int8" else {},
    )
    folder = int8_path.parent
    write_text(folder / report_name(options.format), report.model_dump_json(indent=2) + "\n")
    record = Int8Record(
        max_drop_db=options.max_drop_db,
        max_pixel_error=options.max_pixel_error,
        drop_db=report.drop_db,
        upper_db=report.upper_db,
        visible=report.visible,
        max_abs=report.max_abs,
        psnr_fp32_db=report.psnr_fp32_db,
        share=report.share,
        passed=report.passed,
        report=record_file(folder, report_name(options.format)),
        picture=record_file(folder, report.picture),
    )
    floats = [layer.name for layer in report.layers if layer.precision == "float"]
    planned = tuple(name for name in floats if options.rest == "fp32" or name in keep_fp32)
    return Int8Graph(record, report, planned)
