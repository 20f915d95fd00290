"""What quantizing each convolution alone costs the output, of all in one backward pass for each crop.

To first order the output moves by J d, with d what the layer's own rounding changes in its result, and J the output's
derivatives by that. For a random vector v of signs, E[(J'v)_i^2] = sum_o J_oi^2 (Hutchinson 1989), so where the parts
of d do not depend on each other

    |J d|^2  =  sum_i d_i^2 E[(J'v)_i^2]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sr_deploy.arch.quantized import round_to_levels
from sr_deploy.export.int8.differentiable import DifferentiableGraph
from sr_deploy.export.int8.formats import FP8
from sr_deploy.export.int8.operators import convolve

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from sr_deploy.export.int8.task import Layers


def estimate_errors(
    model: ModelProto, layers: Layers, inputs: Iterable[NDArray[np.float32]], seed: int
) -> dict[str, float]:
    """Mean squared error of the output with each of these convolutions alone quantized, to first order.

    Args:
        model: the FP32 graph.
        layers: by node.
        inputs: 1 x C x H x W each, at least one.
        seed: of the signs.

    Raises:
        UnsupportedGraphError: an operator that gradients are not told a way through.
    """
    graph = DifferentiableGraph(model, torch.float32)
    random = torch.Generator().manual_seed(seed)
    sums = dict.fromkeys(layers, 0.0)
    count = 0
    for lr in inputs:
        changes: dict[str, tuple[Tensor, Tensor]] = {}

        def note(
            node: NodeProto,
            attributes: Mapping[str, object],
            image: Tensor,
            result: Tensor,
            changes: dict[str, tuple[Tensor, Tensor]] = changes,
        ) -> Tensor:
            layer = layers.get(node.name)
            if layer is None:
                return result
            with torch.no_grad():
                levels = round_to_levels(image, torch.tensor(layer.input_scale), in_fp8=layer.format is FP8)
                weight = torch.from_numpy(layer.weight.astype(np.float32))
                bias = None if layer.bias is None else torch.from_numpy(layer.bias)
                step = torch.from_numpy(np.atleast_1d(layer.weight_scale) * np.float32(layer.input_scale))
                quantized = convolve(attributes, [levels, weight, None]) * step.reshape(1, -1, 1, 1)
                off = quantized + (0.0 if bias is None else bias.reshape(1, -1, 1, 1)) - result
            marked = result if result.requires_grad else result.requires_grad_()
            changes[node.name] = (marked, off)
            return marked

        sr = graph.run(torch.from_numpy(lr), on_convolution=note)
        signs = torch.randint(0, 2, sr.shape, generator=random).to(sr.dtype) * 2 - 1
        names = list(changes)
        slopes = torch.autograd.grad(sr, [changes[name][0] for name in names], signs, allow_unused=True)
        for name, slope in zip(names, slopes, strict=True):
            if slope is not None:
                sums[name] += float((changes[name][1] * slope).square().sum(dtype=torch.float64)) / sr.numel()
        count += 1
    return {name: total / max(count, 1) for name, total in sums.items()}
