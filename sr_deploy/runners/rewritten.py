"""Graphs rewritten in memory when a runner opens them: what suits one backend best does not suit another. No torch.

The file has the rewrites that slow no backend (`graph.rewrite.DEFAULT`); what is added here is a part of the backend's
configuration, as its own graph optimizer is, and stands in `RunnerSpec.rewrites` and in certificates.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sr_deploy.errors import BackendError, GraphError
from sr_deploy.graph.load import holding_errors, load_model
from sr_deploy.graph.tensors import find_outside, is_outside
from sr_deploy.names import lend_path

if TYPE_CHECKING:
    from onnx import ModelProto

    from sr_deploy.graph.rewrite import RewriteOptions

Opened = TypeVar("Opened")

_MAX_BYTES = 2**30
"""Larger graphs are left to the backend, which need not hold a file in memory; a message of 2 GiB cannot be written."""


@dataclass(frozen=True)
class RewrittenGraph:
    """A graph in memory that is quicker than the one in the file."""

    content: bytes
    """As an ONNX file has it, weights included."""
    rewrites: tuple[str, ...]
    """What was applied, by the names in docs/graph.md."""


def open_rewritten(
    path: Path, options: RewriteOptions | None, opener: Callable[[Path | bytes], Opened]
) -> tuple[Opened, tuple[str, ...]]:
    """Open a graph with these rewrites, or as it is where they cannot be applied; what opens without opens with them.

    Args:
        path: an ONNX file.
        options: which rewrites; None: none.
        opener: loads a file, or the bytes of one, into a backend.

    Returns:
        What `opener` gave, and the rewrites that are in it.

    Raises:
        BackendError: the backend refuses the file as it is too.
    """
    graph = None if options is None else rewrite_graph(path, options)
    if graph is not None:
        with contextlib.suppress(BackendError):  # then without: the caller sees by the names what was opened
            return opener(graph.content), graph.rewrites
    with lend_path(path) as lent:
        return opener(lent), ()


def rewrite_graph(path: Path, options: RewriteOptions) -> RewrittenGraph | None:
    """The graph in a file with these rewrites; None where none of them finds anything, or where they do not reach.

    They do not reach graphs of an opset before 11, graphs of more than 1 GiB, and weights that are not there.
    """
    from sr_deploy.graph.rewrite import apply_rewrites

    try:
        model = load_model(path)
        with holding_errors(path):
            if not _load_weights_beside(model, path):
                return None
            applied = apply_rewrites(model, options)
            return RewrittenGraph(model.SerializeToString(), applied) if applied else None
    except GraphError:
        return None


def _load_weights_beside(model: ModelProto, path: Path) -> bool:
    """Read weights that lie in files beside the graph, which bytes alone do not lead to; False where that fails."""
    from onnx.checker import ValidationError
    from onnx.external_data_helper import load_external_data_for_model

    outside = [find_outside(tensor) for tensor in model.graph.initializer if is_outside(tensor)]
    try:
        if path.stat().st_size + sum(one.end - one.start for one in outside) > _MAX_BYTES:
            return False
        if outside:
            load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, ValidationError):
        return False
    return True
