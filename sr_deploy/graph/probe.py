"""Scale, input multiple and smallest side of a graph: by following its shapes, or by running it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sr_deploy.errors import GraphError
from sr_deploy.graph.bounds import check_bounds, find_largest, find_unpredictable
from sr_deploy.graph.scale import LARGE_SIDE, ODD_SIDES, Scale, measure_scale
from sr_deploy.graph.shapes import InferredShapes, infer_shapes
from sr_deploy.graph.trial import Trial, try_graph
from sr_deploy.legible import show_value

if TYPE_CHECKING:
    from onnx import ModelProto

# Operators that small pictures may be too small for.
_LIMITED = frozenset(("AveragePool", "LpPool", "MaxPool", "Pad"))
_MAX_KEPT = 64

_found: dict[tuple[str, int, int, int], tuple[Scale, int]] = {}


def find_scale(
    trial: Trial, model: ModelProto, input_name: str, output_name: str, *, from_file: bool
) -> tuple[Scale, int]:
    """How outputs follow from inputs, and `GraphInfo.least_bytes`; remembered for a file that stays as it is.

    Args:
        trial: the file, for messages too, and what it takes.
        model: what is in the file, with ends in N x C x H x W.
        input_name: of the image.
        output_name: of the image.
        from_file: whether the file is there and holds this very model.

    Raises:
        GraphError: no enlarged image, something out of all proportion, or nothing that runs.
    """
    if not from_file:
        return _look(trial, model, input_name, output_name)
    stat = Path(trial.path).stat()
    key = trial.path, stat.st_ino, stat.st_size, stat.st_mtime_ns
    if key not in _found:
        found = _look(trial, model, input_name, output_name, may_run=True)
        if len(_found) >= _MAX_KEPT:
            _found.clear()
        _found[key] = found
    return _found[key]


def _look(
    trial: Trial, model: ModelProto, input_name: str, output_name: str, *, may_run: bool = False
) -> tuple[Scale, int]:
    path, (n, channels, fixed_h, fixed_w) = trial.path, trial.declared
    known: dict[tuple[int, int], InferredShapes] = {}

    def infer(h: int, w: int) -> tuple[int, ...] | None:
        if (h, w) not in known:
            known[h, w] = infer_shapes(model, input_name, (n or 1, channels, h, w))
            _check_bounds(path, model, input_name, known[h, w])
        return known[h, w].shape(output_name) if known[h, w].division is None else None

    large = fixed_h or LARGE_SIDE, fixed_w or 2 * LARGE_SIDE
    infer(fixed_h or ODD_SIDES[0], fixed_w or ODD_SIDES[1])  # what is out of proportion shows with small pictures
    infer(*large)
    divided = known[large].division
    if divided is not None:
        raise GraphError(f"{path}: {show_value(divided)} is an integer divided by zero; it is not run; export it again")
    reason = find_unpredictable(model.graph, known[large])
    if reason is not None and may_run:
        return try_graph(trial, reason), 0
    limited = any(node.op_type in _LIMITED for node in model.graph.node)
    found = measure_scale(path, infer, trial.declared, limited=limited)
    return found, min(map(find_largest, known.values()))


def _check_bounds(path: str, model: ModelProto, input_name: str, shapes: InferredShapes) -> None:
    try:
        check_bounds(model.graph, input_name, shapes)
    except ValueError as error:
        raise GraphError(f"{path}: {error}; no network needs that, so it is not run") from error
