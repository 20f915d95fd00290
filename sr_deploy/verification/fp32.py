"""The FP32 graph against the network itself: made into a graph once more, rewritten alike, compared node by node."""

from __future__ import annotations

from sr_deploy.bundle import Bundle, Check
from sr_deploy.measure.machine import tool_versions
from sr_deploy.model import Model
from sr_deploy.verification.audit import Terms, audit_graph
from sr_deploy.verification.origin import make_again

_TERMS = Terms(tolerance=2.0**-22)
"""Rewrites and folded normalizations compute in FP64 and round once: another processor may round the other way."""
_EXPORTERS = ("torch", "onnx", "onnxscript", "sr-deploy")


def audit_fp32_graph(model: Model, bundle: Bundle, *, deep: bool = False) -> Check:
    """Whether the FP32 graph is what the bundle's own weights give: every node and every number.

    The network is written down while it computes, which takes a moment. Where that gives another graph, PyTorch's
    exporter decides, since it may come to the same function by other nodes.

    Args:
        model: the bundle, opened.
        bundle: likewise.
        deep: ask the exporter whatever was found.

    Raises:
        BundleError: the bundle has no FP32 graph.
        CheckpointError: its weights cannot be read.
    """
    path = bundle.graph("fp32")
    written = audit_graph(path, make_again(model, bundle), "the network itself", _TERMS)
    if written.passed and not deep:
        return written
    again = make_again(model, bundle, exporter=True)
    exported = audit_graph(path, again, "the network exported again", _TERMS)
    exported = exported.model_copy(update={"depth": 1, "findings": (*exported.findings, *_explain(bundle, exported))})
    return exported if exported.passed or deep else written


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
