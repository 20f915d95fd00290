"""What shapes a graph takes, said in a runner's spec."""

from __future__ import annotations

from pathlib import Path

from sr_deploy.backends import BackendChoice
from sr_deploy.bundle.profile import Profile, Shape
from sr_deploy.errors import OutOfMemoryError
from sr_deploy.graph.read import GraphInfo, read_graph
from sr_deploy.graph.scale import MAX_SIDE
from sr_deploy.measure.memory import find_available_memory
from sr_deploy.model import Model
from sr_deploy.runners.protocol import RunnerSpec


def examine_graph(model: Model, path: Path, device: str) -> GraphInfo:
    """What a graph of the model takes, looked at before a backend opens the file.

    Raises:
        GraphError: a file that no backend should open.
        OutOfMemoryError: it takes inputs of one size only, and needs more memory for that than there is.
    """
    graph = model.graph_info or read_graph(path)
    available = find_available_memory() if device == "cpu" else None
    if available is not None and 2 * graph.least_bytes > available:  # systems end processes that ask for more
        raise OutOfMemoryError(
            f"{path} takes inputs of one size, and a tensor of {graph.least_bytes / 2**30:.1f} GiB for that alone; "
            f"{available / 2**30:.1f} GiB are free; export it with dynamic height and width"
        )
    return graph


def graph_runner_spec(
    model: Model,
    choice: BackendChoice,
    version: str,
    device: str,
    path: Path,
    *,
    graph: GraphInfo,
    rewrites: tuple[str, ...] = (),
) -> RunnerSpec:
    """The spec of a runner that computes the graph at `path`, which may take one shape only, with these rewrites."""
    return RunnerSpec(
        backend=choice.backend,
        version=version,
        precision=choice.precision,
        floats=choice.floats,
        device=device,
        scale=model.scale,
        channels=model.channels,
        input_multiple=model.input_multiple,
        profiles=fixed_profiles(graph),
        dtype=graph.input_dtype,
        artifact=path,
        rewrites=rewrites,
    )


def fixed_profiles(graph: GraphInfo) -> tuple[Profile, ...]:
    """What a graph with fixed axes takes, as a profile; none for one whose N, H and W all take any size."""
    n, _, h, w = graph.input_shape
    least = graph.smallest_side
    if n is None and h is None and w is None and least == graph.input_multiple:
        return ()
    lowest = Shape(n or 1, h or least, w or least)
    highest = Shape(n or MAX_SIDE, h or MAX_SIDE, w or MAX_SIDE)
    return (Profile(name="fixed", min=lowest, opt=lowest, max=highest),)
