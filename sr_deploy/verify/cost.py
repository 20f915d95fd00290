"""What a model costs for each pixel and how far it sees, from what is cheapest to ask."""

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
    """From the architecture where it is known, else from the graph; None if that does not tell."""
    if model.arch is not None:
        from sr_deploy.arch.registry import describe_cost

        of_network = describe_cost(model.arch)
        return ModelCost(of_network.flops_per_input_pixel / 2, of_network.receptive_radius)
    if not model.precisions:
        return None
    from sr_deploy.graph.read import describe_graph_cost

    try:
        of_graph = describe_graph_cost(model.graph_path(model.precisions[0]))
    except GraphError:
        return None  # then the inputs are the small ones alone, and the grid says so
    if of_graph.flops_per_input_pixel is None:
        return None
    return ModelCost(of_graph.flops_per_input_pixel / 2, of_graph.receptive_radius)
