"""Rewrites of ONNX graphs that leave backends less to do for the same output.

    report = rewrite_model(model)

One file for each rewrite: the algebra that makes it exact, the pattern, the replacement.
"""

from __future__ import annotations

from sr_deploy.graph.rewrite.apply import GraphSize, RewriteReport, RewriteStep, apply_rewrites, rewrite_model
from sr_deploy.graph.rewrite.average_pool import append_halving
from sr_deploy.graph.rewrite.rewrite_options import (
    DEFAULT,
    FOR_ONNXRUNTIME,
    FOR_OPENVINO,
    FOR_OPENVINO_BF16,
    NOTHING,
    RewriteOptions,
)

__all__ = [
    "DEFAULT",
    "FOR_ONNXRUNTIME",
    "FOR_OPENVINO",
    "FOR_OPENVINO_BF16",
    "NOTHING",
    "GraphSize",
    "RewriteOptions",
    "RewriteReport",
    "RewriteStep",
    "append_halving",
    "apply_rewrites",
    "rewrite_model",
]
