"""What a model costs for each pixel and how far it sees."""

from __future__ import annotations

from dataclasses import dataclass

from sr_deploy.errors import GraphError
from sr_deploy.model import Model


@dataclass(frozen=True)
class ModelCost:
    """Of one input pixel."""

    multiply_adds: float
    """Of convolutions and matrix products."""
    receptive_radius: int | None
    """How far the network sees, in input pixels; None: unknown."""


def find_cost(model: Model) -> ModelCost | None:
    """From the graph, which needs no torch, else from the network; None where neither tells."""
    of_graph = _cost_of_graph(model)
    if model.arch is None or (of_graph is not None and of_graph.receptive_radius is not None):
        return of_graph
    from sr_deploy.arch.registry import describe_cost

    of_network = describe_cost(model.arch)
    return ModelCost(of_network.flops_per_input_pixel / 2, of_network.receptive_radius)


def _cost_of_graph(model: Model) -> ModelCost | None:
    if not model.precisions:
        return None
    from sr_deploy.graph.read import describe_graph_cost

    try:
        found = describe_graph_cost(model.graph_path(model.precisions[0]))
    except GraphError:
        return None
    if found.flops_per_input_pixel is None:
        return None
    return ModelCost(found.flops_per_input_pixel / 2, found.receptive_radius)
