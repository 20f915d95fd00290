"""The FP32 graph held against the network itself: exported once more, rewritten alike, compared number by number."""

from __future__ import annotations

import tempfile
from pathlib import Path

from sr_deploy.bundle import Bundle, Check, utc_now
from sr_deploy.files import sha256_of
from sr_deploy.graph.ends import ENDS_OF_DTYPE, Ends
from sr_deploy.graph.load import load_whole_model
from sr_deploy.graph.read import read_graph
from sr_deploy.measure.machine import tool_versions
from sr_deploy.model import Model
from sr_deploy.verify.audit import audit_graph, compare_tensor

_TOLERANCE = 2.0**-20
"""Rewrites add weights up; another processor may add them in another order."""
_EXPORTERS = ("torch", "onnx", "onnxscript", "sr-deploy")


def audit_fp32_weights(model: Model, bundle: Bundle) -> Check:
    """Whether the FP32 graph holds the network's own weights, compared by their names, which the exporter keeps.

    Cheap: nothing is exported. What rewriting has made of other weights has another name and is left to
    `audit_fp32_graph`.

    Raises:
        BundleError: the bundle has no FP32 graph.
    """
    import onnx

    from sr_deploy.arch.fold import fold_for_export

    path = bundle.graph("fp32")
    state = fold_for_export(model.load_network()).state_dict()
    findings = []
    compared = others = 0
    for tensor in load_whole_model(path).graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        due = state.get(tensor.name)
        if due is None:
            others += 1
            continue
        compared += 1
        findings += compare_tensor(f"tensor {tensor.name!r}", due.numpy(), onnx.numpy_helper.to_array(tensor))
    weights = bundle.manifest.reference.file
    rest = f"; {others} others were made by rewriting, --deep compares them" if others else ""
    return Check(
        kind="weights",
        file=path.name,
        sha256=sha256_of(path),
        what=f"{compared} tensors against those of the same name in {weights}, bit for bit{rest}",
        findings=tuple(findings),
        checked_at=utc_now(),
    )


def audit_fp32_graph(model: Model, bundle: Bundle) -> Check:
    """Whether the FP32 graph is what exporting the bundle's own weights gives.

    Raises:
        BundleError: the bundle has no FP32 graph.
    """
    path = bundle.graph("fp32")
    with tempfile.TemporaryDirectory(prefix="sr-deploy-") as folder:
        again = export_again(model, bundle, Path(folder), rewritten=True)
        check = audit_graph(path, load_whole_model(again), "the network exported again", tolerance=_TOLERANCE)
    return check.model_copy(update={"depth": 1, "findings": (*check.findings, *_explain(bundle, check))})


def export_again(model: Model, bundle: Bundle, folder: Path, *, rewritten: bool) -> Path:
    """Write the FP32 graph of a bundle's weights anew.

    Args:
        model: the bundle, opened.
        bundle: likewise.
        folder: where to.
        rewritten: whether rewrites are applied, if the bundle's graphs have any; False: as PyTorch's exporter gives it.

    Returns:
        The file, with the ends of the bundle's graph.
    """
    from sr_deploy.export.ends import change_graph_ends
    from sr_deploy.export.onnx_export import export_network_to_onnx
    from sr_deploy.export.rewrite import rewrite_graph_file

    manifest = bundle.manifest
    path = folder / bundle.graph("fp32").name
    export_network_to_onnx(model.load_network(), manifest.arch, path, manifest.source.sha256)
    if rewritten and manifest.rewrites:
        rewrite_graph_file(path)
    change_graph_ends(path, _ends_of(bundle.graph("fp32")))
    return path


def _ends_of(path: Path) -> Ends:
    return ENDS_OF_DTYPE[read_graph(path).input_dtype]


def _explain(bundle: Bundle, check: Check) -> list[str]:
    """Another version of the exporter may give another graph of the same network."""
    if not check.findings:
        return []
    now, then = tool_versions(), bundle.manifest.tools
    changed = [
        f"{name} {then[name]} then and {now[name]} now"
        for name in _EXPORTERS
        if name in then and name in now and then[name] != now[name]
    ]
    return [f"which may be because it was exported by others: {', '.join(changed)}"] if changed else []
