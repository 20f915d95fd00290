"""The plain FP32 graph of a network, written down by watching the network compute one tiny picture.

PyTorch's exporter takes seconds and traces; this takes a moment and looks at nothing but the functions that are called
and the tensors that go in and come out. It knows the few operations that the networks here are made of, so that a graph
can be held against the network itself at every verification, node by node, and by other code than what made the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode

from sr_deploy.arch.fold import fold_for_export
from sr_deploy.arch.registry import input_multiple
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.errors import GraphError
from sr_deploy.export.cleanup import clean_graph
from sr_deploy.export.onnx_export import INPUT_NAME, OPSET, OUTPUT_NAME, describe_graph, set_metadata
from sr_deploy.graph.change import rename_tensors

if TYPE_CHECKING:
    import onnx

_SIDES = (2, 3)
_IR_VERSION = 10
Call = tuple[str, Sequence[Any], Mapping[str, Any]]
"""Operator, inputs (tensors, arrays or None) and attributes."""


def write_network(network: torch.nn.Module, arch: ArchSpec, source_sha256: str) -> onnx.ModelProto:
    """As `export.onnx_export.export_network`, but for the names of nodes and the order of attributes.

    Args:
        network: the generator; it is left as it is.
        arch: what it is.
        source_sha256: hash of the checkpoint; stored in the graph.

    Raises:
        GraphError: the network calls a function that is not known here.
    """
    from onnx import TensorProto, helper

    folded = fold_for_export(network).eval()
    multiple = input_multiple(arch)
    writer = _Writer({id(tensor): name for name, tensor in folded.named_parameters()})
    lr_NCHW = torch.zeros(1, arch.channels, *(multiple * side for side in _SIDES))
    writer.names[id(lr_NCHW)] = INPUT_NAME
    with torch.no_grad(), writer:
        sr_NCHW = folded(lr_NCHW)
    writer.end(sr_NCHW)
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, arch.channels, None, None])
        for name in (INPUT_NAME, OUTPUT_NAME)
    ]
    graph = helper.make_graph(writer.nodes, "generator", values[:1], values[1:], writer.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION)
    clean_graph(model, scale=arch.scale)
    set_metadata(model, describe_graph(arch, multiple, "fp32", source_sha256))
    return model


class _Writer(TorchFunctionMode):
    """Notes every function that gives a tensor as a node."""

    def __init__(self, parameters: Mapping[int, str]) -> None:
        super().__init__()
        self.names = dict(parameters)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._stored: set[str] = set()
        self._kept: list[torch.Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and id(result) not in self.names:
            self._note(func, result, args, kwargs or {})
        return result

    def end(self, result: torch.Tensor) -> None:
        """Let the graph's output be this result."""
        name = self.names.get(id(result))
        if name is not None:
            rename_tensors(self.nodes, {name: OUTPUT_NAME})

    def _note(
        self, func: Callable[..., Any], result: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        from onnx import helper

        name = getattr(func, "__name__", str(func))
        write = _OPERATIONS.get(name)
        if write is None:
            raise GraphError(f"the network calls {name}, which is written as no node here")
        operator, inputs, attributes = write(*args, **kwargs)
        self._kept.append(result)  # while it is kept no other tensor gets its id
        if operator == "Concat" and len(inputs) == 1:
            self.names[id(result)] = self.names[id(inputs[0])]
            return
        output = f"value_{len(self.nodes)}"
        read = [self._name(one, f"{output}.{place}") for place, one in enumerate(inputs)]
        self.nodes.append(helper.make_node(operator, read, [output], **attributes))
        self.names[id(result)] = output

    def _name(self, value: torch.Tensor | NDArray[np.float32] | None, fresh: str) -> str:
        """The tensor's name; parameters and constants are stored under it when they are first read."""
        from onnx import numpy_helper

        if value is None:
            return ""
        if isinstance(value, torch.Tensor):
            known = self.names.get(id(value))
            if known is not None and not (isinstance(value, torch.nn.Parameter) and known not in self._stored):
                return known
            fresh, value = known or fresh, value.detach().numpy()
        self._stored.add(fresh)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), fresh))
        return fresh


def _write_convolution(
    data: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *settings: Sequence[int] | int
) -> Call:
    """`settings`: strides, padding, dilations and groups, as a layer of PyTorch hands them over."""
    stride, padding, dilation, groups = settings
    assert isinstance(padding, Sequence)
    sizes = {"strides": stride, "pads": [*padding, *padding], "dilations": dilation, "group": groups}
    inputs = [data, weight] if bias is None else [data, weight, bias]
    return "Conv", inputs, {**sizes, "kernel_shape": list(weight.shape[2:])}


def _write_prelu(data: torch.Tensor, slope: torch.Tensor) -> Call:
    return "PRelu", [data, slope.detach().numpy().reshape(1, -1, 1, 1)], {}


def _write_resize(data: torch.Tensor, **settings: object) -> Call:
    known = {"nearest": ("nearest", "asymmetric"), "bilinear": ("linear", "half_pixel")}
    asked = {name: value for name, value in settings.items() if value}
    factor, mode = asked.pop("scale_factor", None), asked.pop("mode", "")
    if asked or not isinstance(factor, float) or mode not in known:
        raise GraphError(f"the network calls interpolate with {settings}, which is written as no node here")
    kind, place = known[str(mode)]
    scales = np.array([1, 1, factor, factor], np.float32)
    attributes = {"mode": kind, "coordinate_transformation_mode": place, "nearest_mode": "floor"}
    return "Resize", [data, None, scales], attributes


def _write_pair(operator: str) -> Callable[..., Call]:
    def write(a: torch.Tensor | float, b: torch.Tensor | float) -> Call:
        both = [one if isinstance(one, torch.Tensor) else np.array(one, np.float32) for one in (a, b)]
        return operator, both, {}

    return write


_OPERATIONS: Mapping[str, Callable[..., Call]] = {
    "conv2d": _write_convolution,
    "prelu": _write_prelu,
    "relu": lambda data, inplace=False: ("Relu", [data], {}),
    "leaky_relu": lambda data, negative_slope=0.01, inplace=False: ("LeakyRelu", [data], {"alpha": negative_slope}),
    "cat": lambda tensors, dim=0: ("Concat", list(tensors), {"axis": dim}),
    "pixel_shuffle": lambda data, factor: ("DepthToSpace", [data], {"blocksize": factor, "mode": "CRD"}),
    "interpolate": _write_resize,
    "add": _write_pair("Add"),
    "mul": _write_pair("Mul"),
}
