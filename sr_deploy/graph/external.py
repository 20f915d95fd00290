"""Weights that an ONNX file keeps in other files: whether it does, and where those may lie."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sr_deploy.errors import GraphError, UnsafePathError
from sr_deploy.untrusted import find_inside, is_regular

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

_LOCATION = "location"


def keeps_weights_outside(path: Path) -> bool:
    """Whether some tensor of an ONNX file lies in another file.

    The file is parsed only if the word that such a tensor needs is in it: opening a bundle asks this of each graph.

    Raises:
        GraphError: the word is in it, and it is no ONNX file.
    """
    if path.stat().st_size == 0:
        return False
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(_LOCATION.encode()) < 0:
            return False
    from sr_deploy.graph.load import load_model

    return any(map(_is_outside, list_tensors(load_model(path))))


def check_external(path: Path, model: ModelProto) -> None:
    """Refuse a model that would read anything but plain files in its own folder; they need not be there.

    Args:
        path: of the ONNX file.
        model: what is in it.

    Raises:
        UnsafePathError: a tensor lies outside the folder, or in what is no plain file.
        GraphError: the file that a tensor lies in is not named.
    """
    for location in dict.fromkeys(map(_find_location, filter(_is_outside, list_tensors(model)))):
        if not location:
            raise GraphError(f"{path}: a tensor lies in another file and does not say in which; export it again")
        place = find_inside(path.parent, location)
        if place.exists() and not is_regular(place):
            raise UnsafePathError(f"{path}: its weights lie in {location}, which is no plain file")


def list_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor that is stored in a model: constants, attributes, those of inner graphs and of functions."""
    yield from _list_of_graph(model.graph)
    for function in model.functions:
        yield from _list_of_nodes(function.node)
    for training in model.training_info:
        yield from _list_of_graph(training.initialization)
        yield from _list_of_graph(training.algorithm)


def _list_of_graph(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _list_of_nodes(graph.node)


def _list_of_nodes(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            kinds = {field.name for field, _ in attribute.ListFields()}  # most hold a number and nothing of these
            if "t" in kinds:
                yield attribute.t
            yield from attribute.tensors
            for sparse in (
                *((attribute.sparse_tensor,) if "sparse_tensor" in kinds else ()),
                *attribute.sparse_tensors,
            ):
                yield from (sparse.values, sparse.indices)
            for graph in (*((attribute.g,) if "g" in kinds else ()), *attribute.graphs):
                yield from _list_of_graph(graph)


def _is_outside(tensor: TensorProto) -> bool:
    return bool(tensor.data_location == tensor.EXTERNAL or tensor.external_data)


def _find_location(tensor: TensorProto) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == _LOCATION), "")
