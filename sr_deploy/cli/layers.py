"""What `sr-deploy info --layers` shows: each layer of a graph, what it computes and moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sr_deploy.cli.output import format_size

if TYPE_CHECKING:
    from rich.table import Table

    from sr_deploy.bundle import Shape
    from sr_deploy.graph.cost import LayerCost
    from sr_deploy.model import Model

_DEFAULT_SIDE = 256


def list_layers(model: Model, shape: Shape | None) -> dict[Path, tuple[Shape, tuple[LayerCost, ...]]]:
    """The layers of each ONNX graph of a model, for `shape` or one that each graph takes.

    Raises:
        InputError: the model has no graph.
        ShapeError: a graph does not take that shape.
    """
    from sr_deploy.bundle import Shape
    from sr_deploy.errors import InputError
    from sr_deploy.graph.read import describe_layers, read_graph

    if not model.precisions:
        raise InputError(
            f"{model.path} has no ONNX graph, so there are no layers to list; make one with: sr-deploy export"
        )
    listed = {}
    for precision in model.precisions:
        path = model.graph_path(precision)
        taken = shape
        if taken is None:
            n, _, h, w = read_graph(path).input_shape
            side = -(-_DEFAULT_SIDE // model.input_multiple) * model.input_multiple
            taken = Shape(n or 1, h or side, w or side)
        listed[path] = taken, describe_layers(path, taken)
    return listed


def describe_listed(listed: dict[Path, tuple[Shape, tuple[LayerCost, ...]]]) -> list[dict[str, object]]:
    """The same for programs."""
    from sr_deploy.graph.cost import sum_layers

    return [
        {
            "file": str(path),
            "shape": str(shape),
            "layers": [asdict(layer) for layer in layers],
            "totals": asdict(sum_layers(layers)),
        }
        for path, (shape, layers) in listed.items()
    ]


def make_layers_table(path: Path, shape: Shape, layers: Sequence[LayerCost]) -> Table:
    """One row a layer, the sums in the last one."""
    from rich.table import Table

    from sr_deploy.graph.cost import sum_layers

    table = Table(title=f"layers of {path.name} at {shape}", title_justify="left", show_footer=True)
    total = sum_layers(layers)
    table.add_column("layer", footer="all", overflow="fold")
    table.add_column("operator", footer=str(len(layers)))
    table.add_column("precision")
    table.add_column("output", justify="right")
    table.add_column("operations", justify="right", footer=format_operations(total.flops))
    table.add_column("share", justify="right", footer="100 %" if total.flops else "")
    table.add_column("read", justify="right", footer=format_size(total.bytes_read))
    table.add_column("written", justify="right", footer=format_size(total.bytes_written))
    table.add_column("weights", justify="right", footer=format_size(total.weight_bytes))
    for layer in layers:
        table.add_row(
            layer.name,
            layer.op,
            layer.precision or "",
            "x".join(map(str, layer.output_shape)),
            format_operations(layer.flops) if layer.flops else "",
            f"{100 * layer.share:.1f} %" if layer.flops else "",
            format_size(layer.bytes_read) if layer.bytes_read else "",
            format_size(layer.bytes_written) if layer.bytes_written else "",
            format_size(layer.weight_bytes) if layer.weight_bytes else "",
        )
    return table


def format_operations(flops: float) -> str:
    """As in `2.35 GFLOP`: three digits."""
    for unit, factor in (("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6), ("kFLOP", 1e3)):
        if flops >= factor:
            return f"{flops / factor:.3g} {unit}"
    return f"{flops:.3g} FLOP"
