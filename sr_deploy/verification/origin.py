"""What each graph of a bundle was made of: the network made into a graph again, or the FP32 graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sr_deploy.backends import Precision
from sr_deploy.bundle import Bundle
from sr_deploy.bundle.documents import read_record
from sr_deploy.errors import GraphError
from sr_deploy.export.int8.bundle import load_quantized_source
from sr_deploy.export.int8.search_report import Int8Report
from sr_deploy.graph.io_dtype import IO_DTYPE_OF, IoDtype, change_io_dtype
from sr_deploy.graph.load import load_whole_model
from sr_deploy.graph.read import read_graph
from sr_deploy.model import Model

if TYPE_CHECKING:
    from onnx import ModelProto

    from sr_deploy.graph.rewrite import RewriteOptions

_exported: dict[tuple[str, str, str], bytes] = {}
"""What was exported last, so that a process that looks at one network several times exports it once."""


def read_search(bundle: Bundle, precision: Precision) -> Int8Report | None:
    """What the bundle's `int8.json` or `fp8.json` says; None for other precisions, or where the manifest names none.

    Raises:
        BundleError: it is damaged.
    """
    search = bundle.manifest.searches.get(precision)
    return None if search is None else read_record(bundle.path / search.report.file, Int8Report)


def load_reference(bundle: Bundle, precision: Precision) -> ModelProto:
    """The FP32 graph that a bundle's graph of that precision was made of: for INT8 and FP8 with channels evened out.

    Raises:
        BundleError: the bundle has no FP32 graph, or the report of its search is damaged or of another network.
        GraphError: a damaged graph.
    """
    search = bundle.manifest.searches.get(precision)
    if search is not None:
        return load_quantized_source(bundle.graph("fp32"), bundle.path / search.report.file)
    return load_whole_model(bundle.graph("fp32"))


def make_again(
    model: Model, bundle: Bundle, *, rewritten: bool = True, io_dtype: IoDtype | None = None, exporter: bool = False
) -> ModelProto:
    """The FP32 graph of a bundle's weights, made anew.

    Args:
        model: the bundle, opened.
        bundle: likewise.
        rewritten: whether the rewrites that the manifest names are applied; False: the plain graph.
        io_dtype: what it takes and gives; None: as the bundle's graphs.
        exporter: whether PyTorch's exporter makes it, which takes seconds to a minute; False: it is written down while
            the network computes, and exported only where it calls what cannot be written.
    """
    from sr_deploy.graph.rewrite import rewrite_model
    from sr_deploy.verification.written import write_network

    manifest = bundle.manifest
    try:
        if exporter:
            graph = _export(model, bundle)
        else:
            graph = write_network(model.load_network(), manifest.arch, manifest.source.sha256)
    except GraphError:
        graph = _export(model, bundle)
    if rewritten and manifest.rewrites:
        rewrite_model(graph, _choose_rewrites(manifest.rewrites))
    if io_dtype is None:
        io_dtype = IO_DTYPE_OF[read_graph(bundle.path / manifest.graphs[0].file).input_dtype]
    change_io_dtype(graph, io_dtype)
    return graph


def _export(model: Model, bundle: Bundle) -> ModelProto:
    import onnx

    from sr_deploy.export.onnx_export import export_network

    manifest = bundle.manifest
    key = (manifest.reference.sha256, manifest.source.sha256, manifest.arch.model_dump_json())
    if key not in _exported:
        graph = export_network(model.load_network(), manifest.arch, manifest.source.sha256)
        _exported.clear()
        _exported[key] = graph.SerializeToString()
    again: ModelProto = onnx.ModelProto.FromString(_exported[key])
    return again


def _choose_rewrites(names: tuple[str, ...]) -> RewriteOptions:
    """Those of an export's rewrites that found something then, so that one that came later changes nothing."""
    from sr_deploy.graph.rewrite import DEFAULT, RewriteOptions

    on = {name: name in names for name, value in vars(DEFAULT).items() if value is True}
    return RewriteOptions(**on)  # type: ignore[arg-type]
