"""Weights that an ONNX file keeps in other files: whether it does, and where those may lie."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sr_deploy.errors import GraphError, UnsafePathError
from sr_deploy.files import require_file
from sr_deploy.graph.order import inner_graphs
from sr_deploy.graph.tensors import find_outside, is_outside
from sr_deploy.untrusted import find_inside, is_regular

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto

_LOCATION = b"location"


def keeps_weights_outside(path: Path) -> bool:
    """Whether some tensor of an ONNX file lies in another file.

    The file is parsed only if the word that such a tensor needs is in it: opening a bundle asks this of each graph.

    Raises:
        GraphError: the word is in it, and it is not an ONNX file.
    """
    if path.stat().st_size == 0:
        return False
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(_LOCATION) < 0:
            return False
    from sr_deploy.graph.load import load_model

    return any(map(is_outside, list_tensors(load_model(path).graph)))


def check_external(path: Path, model: ModelProto) -> None:
    """Refuse a model that would read anything but plain files in its own folder; they need not be there.

    Args:
        path: of the ONNX file.
        model: what is in it; `check_model` found nothing wrong with it.

    Raises:
        UnsafePathError: a tensor lies outside the folder, or in what is not a plain file.
        GraphError: the file that a tensor lies in ends before it.
        InputError: it cannot be read.
    """
    ends: dict[str, int] = {}
    for where in map(find_outside, filter(is_outside, list_tensors(model.graph))):
        ends[where.location] = max(where.end, ends.get(where.location, 0))
    for location, end in ends.items():
        try:
            place = find_inside(path.parent, location)
        except UnsafePathError as error:
            raise UnsafePathError(f"{path} keeps weights in another file: {error}") from error
        if not place.exists():
            continue
        if not is_regular(place):
            raise UnsafePathError(f"{path}: its weights lie in {location}, which is not a plain file")
        require_file(place, "the weights of a graph")
        size = place.stat().st_size
        if size < end:
            raise GraphError(f"{path}: its weights take {end} bytes of {location}, which has {size}; copy it again")


def list_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Every tensor that is stored in a graph: constants, attributes, and those of inner graphs."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
        for inner in inner_graphs(node):
            yield from list_tensors(inner)
