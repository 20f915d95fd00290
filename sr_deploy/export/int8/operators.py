"""ONNX operators in PyTorch, so that gradients flow through them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


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


def is_bilinear(attributes: Mapping[str, Any]) -> bool:
    """Whether a Resize interpolates between pixels as PyTorch does."""
    place = attributes.get("coordinate_transformation_mode", b"half_pixel")
    return attributes.get("mode") == b"linear" and place in (b"half_pixel", b"pytorch_half_pixel")


def _enlarge(attributes: Mapping[str, Any], data: Sequence[Any]) -> Tensor:
    tall, wide = (int(one) for one in data[2][2:])
    mode = "bilinear" if is_bilinear(attributes) else "nearest"
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
    """To integers as asked for, else to FP32, which what is computed in BF16 becomes where both meet."""
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
    align = bool(attributes.get("align_corners", 0))
    # In FP32: there are no half pixels in BF16.
    return functional.grid_sample(data[0].float(), data[1].float(), mode, padding, align).to(data[0].dtype)


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


OPERATORS: dict[str, Callable[[Mapping[str, Any], Sequence[Any]], Any]] = {
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
