"""An FP32 graph in PyTorch, so that gradients flow through it: as it is, or with convolutions quantized.

Quantized convolutions multiply integers, which BF16 holds as exactly as FP32 does up to 256, or E4M3 numbers, of
which it holds all; their sums are scaled afterwards. So a CPU with BF16 instructions computes what INT8 or FP8 will,
but for the rounding of results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sr_deploy.arch.quantized import round_to_levels
from sr_deploy.export.int8.joins import find_parts, list_joined
from sr_deploy.graph.load import find_input_output

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


@dataclass(frozen=True)
class Quantized:
    """What a quantized convolution computes with; gradients flow to all of them that require one."""

    step: Tensor
    """Of its data input; a scalar."""
    weight: Tensor
    """Numbers of the format, output channels x input channels x height x width."""
    weight_step: Tensor
    """One for each output channel, or a scalar."""
    bias: Tensor | None
    """One for each output channel."""


OnConvolution = Callable[["NodeProto", Mapping[str, Any], Tensor, Tensor], Tensor]


class DifferentiableGraph:
    """Runs a graph on N x C x H x W tensors."""

    def __init__(self, model: ModelProto, dtype: torch.dtype, *, in_fp8: bool = False) -> None:
        """Read the weights.

        Args:
            model: FP32, one image in and one out.
            dtype: what is computed in.
            in_fp8: whether feature maps are quantized to E4M3; False: to INT8.

        Raises:
            UnsupportedGraphError: a node that PyTorch is not told how to compute here.
        """
        import onnx

        self._nodes = list(model.graph.node)
        self._producers = {name: node for node in self._nodes for name in node.output}
        source, target = find_input_output("the graph", model)
        self._input, self._output = source.name, target.name
        self._attributes = {
            id(node): {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute} for node in self._nodes
        }
        self._constants: dict[str, Tensor] = {}
        for tensor in model.graph.initializer:
            values = torch.from_numpy(np.array(onnx.numpy_helper.to_array(tensor)))
            self._constants[tensor.name] = values.to(dtype) if values.is_floating_point() else values
        self._dtype, self._in_fp8 = dtype, in_fp8
        for node in self._nodes:
            if not self._is_known(node):
                raise UnsupportedGraphError(node.op_type)

    def run(
        self,
        lr_NCHW: Tensor,
        layers: Mapping[str, Quantized] | None = None,
        on_convolution: OnConvolution | None = None,
    ) -> Tensor:
        """Compute the output in the type of the graph, not clamped.

        Args:
            lr_NCHW: [0, 1].
            layers: convolutions to quantize, by node; convolutions that share a feature map share its step.
            on_convolution: given each float convolution, its attributes, its data and its result; what it returns takes
                the place of the result.
        """
        layers = layers or {}
        values = {self._input: lr_NCHW.to(self._dtype)}
        levels: dict[str, Tensor] = {}
        for node in self._list_needed(layers):
            data = [values.get(name, self._constants.get(name)) for name in node.input]
            attributes = self._attributes[id(node)]
            if node.op_type != "Conv":
                result = _OPERATORS[node.op_type](attributes, data)
            elif node.name in layers:
                layer = layers[node.name]
                read = self._quantize(node.input[0], layer.step, values, levels)
                result = convolve(attributes, [read, layer.weight.to(self._dtype), None])
                scale = (layer.step * layer.weight_step).detach().reshape(1, -1, 1, 1)
                result = result * scale.to(self._dtype)
                if layer.bias is not None:
                    result = result + layer.bias.reshape(1, -1, 1, 1).to(self._dtype)
            else:
                plain = convolve(attributes, [values[node.input[0]], *data[1:]])
                image = values[node.input[0]]
                result = on_convolution(node, attributes, image, plain) if on_convolution else plain
            values.update(zip(node.output, result if isinstance(result, tuple) else (result,), strict=False))
        return values[self._output]

    def _quantize(self, name: str, step: Tensor, values: Mapping[str, Tensor], levels: dict[str, Tensor]) -> Tensor:
        if name not in levels:
            node = self._producers.get(name)
            joined = list_joined(node)
            if node is not None and joined:
                parts = [self._quantize(part, step, values, levels) for part in joined]
                rest = [self._constants.get(one) for one in node.input[len(parts) :]]
                levels[name] = _OPERATORS[node.op_type](self._attributes[id(node)], [*parts, *rest])
            else:
                levels[name] = round_to_levels(values[name], step, in_fp8=self._in_fp8)
        return levels[name]

    def _list_needed(self, layers: Mapping[str, Quantized]) -> Sequence[NodeProto]:
        """Nodes that are computed as floats: without concatenations that quantized convolutions alone read."""
        wanted = {self._output}
        needed = []
        for node in reversed(self._nodes):
            if wanted.isdisjoint(node.output):
                continue
            needed.append(node)
            wanted.update(find_parts(self._producers, node.input[0]) if node.name in layers else node.input)
        return needed[::-1]

    def _is_known(self, node: NodeProto) -> bool:
        attributes = self._attributes[id(node)]
        if node.op_type == "Conv":
            padded = attributes.get("auto_pad", b"NOTSET") == b"NOTSET"
            return padded and len(attributes.get("kernel_shape", (3, 3))) == 2
        if node.op_type == "Resize":
            told = bool(list_joined(node)) or _is_bilinear(attributes)
            return told and len(node.input) == 3 and self._is_whole_scale(node.input[2])
        return node.op_type in _OPERATORS

    def _is_whole_scale(self, name: str) -> bool:
        scales = self._constants.get(name)
        if scales is None or len(scales) != 4:
            return False
        return bool((scales == scales.round()).all() and (scales[:2] == 1).all())


class UnsupportedGraphError(Exception):
    """An operator that is not computed here; its name is the message."""


def convolve(attributes: Mapping[str, Any], data: Sequence[Any]) -> Tensor:
    """A convolution with the attributes of an ONNX node; image, weight and bias or None."""
    image, weight, *bias = data
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    if (top, left) != (bottom, right):
        image, top, left = functional.pad(image, (left, right, top, bottom)), 0, 0
    return functional.conv2d(
        image,
        weight,
        bias[0] if bias else None,
        tuple(attributes.get("strides", (1, 1))),
        (top, left),
        tuple(attributes.get("dilations", (1, 1))),
        attributes.get("group", 1),
    )


def _shuffle(attributes: Mapping[str, Any], data: Sequence[Any]) -> Tensor:
    block = int(attributes["blocksize"])
    if attributes.get("mode", b"DCR") == b"CRD":
        return functional.pixel_shuffle(data[0], block)
    n, c, h, w = data[0].shape
    split: Tensor = data[0].reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return split.reshape(n, c // block**2, h * block, w * block)


def _is_bilinear(attributes: Mapping[str, Any]) -> bool:
    place = attributes.get("coordinate_transformation_mode", b"half_pixel")
    return attributes.get("mode") == b"linear" and place in (b"half_pixel", b"pytorch_half_pixel")


def _enlarge(attributes: Mapping[str, Any], data: Sequence[Any]) -> Tensor:
    tall, wide = (int(one) for one in data[2][2:])
    mode = "bilinear" if _is_bilinear(attributes) else "nearest"
    return functional.interpolate(data[0], scale_factor=(tall, wide), mode=mode)


def _bend(attributes: Mapping[str, Any], data: Sequence[Any]) -> Tensor:
    return torch.where(data[0] >= 0, data[0], data[0] * data[1])


def _list_axes(attributes: Mapping[str, Any], data: Sequence[Any]) -> list[int]:
    """Of an operator that takes them as an attribute before some version of ONNX, and as its second input since."""
    axes = data[1].tolist() if len(data) > 1 and data[1] is not None else attributes.get("axes", ())
    return list(axes)


def _average(attributes: Mapping[str, Any], data: Sequence[Any]) -> Tensor:
    axes = _list_axes(attributes, data) or list(range(data[0].ndim))
    averaged: Tensor = data[0].mean(axes, keepdim=bool(attributes.get("keepdims", 1)))
    return averaged


def _cast(attributes: Mapping[str, Any], data: Sequence[Any]) -> Tensor:
    """To integers as asked for; what is floating-point or becomes it has the type of the other operand."""
    integers = {6: torch.int32, 7: torch.int64}
    converted: Tensor = data[0].to(integers.get(attributes["to"], torch.float32))
    return converted


def _gelu(attributes: Mapping[str, Any], data: Sequence[Any]) -> Tensor:
    return functional.gelu(data[0], approximate=attributes.get("approximate", b"none").decode())


def _normalize_instance(attributes: Mapping[str, Any], data: Sequence[Any]) -> Tensor:
    return functional.instance_norm(data[0], weight=data[1], bias=data[2], eps=attributes.get("epsilon", 1e-5))


def _normalize_layer(attributes: Mapping[str, Any], data: Sequence[Any]) -> Tensor:
    shape, bias = data[0].shape[attributes.get("axis", -1) :], data[2] if len(data) > 2 else None
    return functional.layer_norm(data[0], shape, data[1].expand(shape), bias, attributes.get("epsilon", 1e-5))


def _reshape(attributes: Mapping[str, Any], data: Sequence[Any]) -> Tensor:
    sides = data[1].tolist()
    if not attributes.get("allowzero", 0):
        sides = [data[0].shape[axis] if side == 0 else side for axis, side in enumerate(sides)]
    reshaped: Tensor = data[0].reshape(sides)
    return reshaped


def _sample(attributes: Mapping[str, Any], data: Sequence[Any]) -> Tensor:
    mode = {b"linear": "bilinear", b"cubic": "bicubic"}.get(attributes.get("mode", b"linear"), "nearest")
    padding = attributes.get("padding_mode", b"zeros").decode()
    return functional.grid_sample(data[0], data[1], mode, padding, bool(attributes.get("align_corners", 0)))


def _slice(_: Mapping[str, Any], data: Sequence[Any]) -> Tensor:
    starts, ends = (one.tolist() for one in data[1:3])
    axes = data[3].tolist() if len(data) > 3 and data[3] is not None else range(len(starts))
    steps = data[4].tolist() if len(data) > 4 and data[4] is not None else [1] * len(starts)
    slices = [slice(None)] * data[0].ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        slices[axis] = slice(start, end, step)
    cut: Tensor = data[0][tuple(slices)]
    return cut


def _split(attributes: Mapping[str, Any], data: Sequence[Any]) -> tuple[Tensor, ...]:
    axis = attributes.get("axis", 0)
    if len(data) > 1 and data[1] is not None:
        return tuple(data[0].split(data[1].tolist(), axis))
    return tuple(data[0].chunk(attributes["num_outputs"], axis))


def _take_shape(attributes: Mapping[str, Any], data: Sequence[Any]) -> Tensor:
    return torch.tensor(data[0].shape[attributes.get("start", 0) : attributes.get("end", None)])


def _unsqueeze(attributes: Mapping[str, Any], data: Sequence[Any]) -> Tensor:
    result: Tensor = data[0]
    axes = _list_axes(attributes, data)
    for axis in sorted(axis % (result.ndim + len(axes)) for axis in axes):
        result = result.unsqueeze(axis)
    return result


def _squeeze(attributes: Mapping[str, Any], data: Sequence[Any]) -> Tensor:
    axes = _list_axes(attributes, data)
    squeezed: Tensor = data[0].squeeze(tuple(axes)) if axes else data[0].squeeze()
    return squeezed


_OPERATORS: dict[str, Callable[[Mapping[str, Any], Sequence[Any]], Any]] = {
    "Add": lambda _, data: data[0] + data[1],
    "Cast": _cast,
    "Concat": lambda attributes, data: torch.cat(list(data), attributes["axis"]),
    "DepthToSpace": _shuffle,
    "Div": lambda _, data: data[0] / data[1] if data[0].is_floating_point() else data[0] // data[1],
    "Erf": lambda _, data: torch.erf(data[0]),
    "Exp": lambda _, data: torch.exp(data[0]),
    "Expand": lambda _, data: data[0] * torch.ones(data[1].tolist(), dtype=data[0].dtype),
    "Gelu": _gelu,
    "GlobalAveragePool": lambda _, data: data[0].mean((2, 3), keepdim=True),
    "GridSample": _sample,
    "Identity": lambda _, data: data[0],
    "InstanceNormalization": _normalize_instance,
    "LayerNormalization": _normalize_layer,
    "LeakyRelu": lambda attributes, data: functional.leaky_relu(data[0], attributes.get("alpha", 0.01)),
    "MatMul": lambda _, data: data[0] @ data[1],
    "Mish": lambda _, data: functional.mish(data[0]),
    "Mul": lambda _, data: data[0] * data[1],
    "Pow": lambda _, data: data[0] ** data[1],
    "PRelu": _bend,
    "Range": lambda _, data: torch.arange(*(one.item() for one in data), dtype=data[0].dtype),
    "ReduceMean": _average,
    "Relu": lambda _, data: functional.relu(data[0]),
    "Reshape": _reshape,
    "Resize": _enlarge,
    "Shape": _take_shape,
    "Sigmoid": lambda _, data: torch.sigmoid(data[0]),
    "Slice": _slice,
    "Softmax": lambda attributes, data: functional.softmax(data[0], attributes.get("axis", -1)),
    "Split": _split,
    "Sqrt": lambda _, data: torch.sqrt(data[0]),
    "Squeeze": _squeeze,
    "Sub": lambda _, data: data[0] - data[1],
    "Sum": lambda _, data: torch.stack(list(data)).sum(0),
    "Tanh": lambda _, data: torch.tanh(data[0]),
    "Transpose": lambda attributes, data: data[0].permute(attributes["perm"]),
    "Unsqueeze": _unsqueeze,
}
"""What is computed besides convolutions, from attributes and inputs; of several results, a tuple."""
