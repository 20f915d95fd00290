"""Steps and weights learned, so that the quantized network gives what the FP32 network gives.

The quantized graph is trained to repeat the FP32 graph on crops of calibration photographs (distillation; no originals
are needed), all layers together, by Adam on the mean squared error of the output clamped to [0, 1]. What is learned:

- the step of each feature map (Esser et al. 2020), as a factor of the calibrated one, from 1/2 to 2;
- which number of the format each weight becomes: w moved by up to half the distance between two numbers there, rounded.
  So each weight stays within one such distance of what the FP32 network has (as with Nagel et al. 2020, who choose
  between the two numbers beside it), and an audit can hold the graph to the network.

Steps of weights stay as they are, and so do biases, which are corrected afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sr_deploy.arch.quantized import round_to_e4m3
from sr_deploy.export.int8.calibration_images import CropShape, cut_crops
from sr_deploy.export.int8.differentiable import DifferentiableGraph, Quantized, UnsupportedGraphError
from sr_deploy.export.int8.formats import FP8
from sr_deploy.export.int8.joins import group_by_step
from sr_deploy.export.int8.placement import Placement
from sr_deploy.export.int8.quantization_options import MAX_FACTOR, MIN_FACTOR
from sr_deploy.measure.machine import has_multiplier

if TYPE_CHECKING:
    from sr_deploy.export.int8.task import Layers, QuantizationTask

_WEIGHT_RATE, _FACTOR_RATE = 0.01, 3e-3
"""Of Adam, in distances between numbers and factors: how far a number moves at most when it is changed once. Measured
on realesrgan-x4plus-anime, in INT8: four times that of weights ends 1.6 dB below where it began after 100 changes,
since every weight wanders; a little less than this is 0.5 dB above after 40."""
_START = 1.25
"""Factor of the calibrated step that learning begins with. Calibration clips what is rare, and saturated colors are:
they fade. Learning narrows ranges where that pays, but hardly finds the way back to what is always clipped."""
_WARM_UP = 10
_LAST_RATE = 0.05
"""Share of the rate that is left at the end of a cosine (Loshchilov and Hutter 2017)."""
_STREAM = 4


@dataclass(frozen=True)
class Learned:
    """What training changed."""

    factors: dict[str, float]
    """What the calibrated step of each feature map that a convolution reads is multiplied with."""
    moved: dict[str, NDArray[np.int8]]
    """By how many numbers of the format rounded weights are moved, -1 to 1, by node."""


def learn_layers(task: QuantizationTask, placement: Placement, layers: Layers) -> Learned | str:
    """Train steps and weights of all candidates together.

    Args:
        task: the graph with its channels evened out.
        placement: its candidates.
        layers: all of them quantized as calibrated.

    Returns:
        What was learned; or, where the graph has an operator that gradients are not told a way through, which.
    """
    dtype = torch.bfloat16 if has_multiplier("bf16") else torch.float32
    try:
        graph = DifferentiableGraph(task.model, dtype, in_fp8=task.format is FP8)
    except UnsupportedGraphError as error:
        return str(error)
    trainee = _Trainee(task, placement, layers)
    optimizer = torch.optim.Adam(
        [
            {"params": list(trainee.offsets.values()), "lr": _WEIGHT_RATE},
            {"params": list(trainee.factors.values()), "lr": _FACTOR_RATE},
        ],
        betas=(0.9, 0.99),
    )
    options = task.options
    count = options.learn_steps
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, count))
    side = -(-options.learn_size // task.multiple) * task.multiple
    shape = CropShape(side, task.shape.scale, task.shape.channels, options.seed)
    crops = cut_crops(task.photographs.calibration, count * options.learn_batch, shape, _STREAM)
    for step in range(count):
        if step % 50 == 0:
            task.say(f"learn steps and weights, {step} of {count} steps done")
        lr = torch.from_numpy(np.concatenate([next(crops).network_input for _ in range(options.learn_batch)]))
        lr = lr.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            expected = graph.run(lr).float().clamp(0, 1)
        off = (graph.run(lr, trainee.quantize()).float() - expected).square().mean()
        optimizer.zero_grad()
        torch.autograd.backward(off)
        optimizer.step()
        schedule.step()
        trainee.keep_within()
    return trainee.read()


def _rate(step: int, count: int) -> float:
    rise = min(1.0, (step + 1) / _WARM_UP)
    return rise * (_LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * step / count)) / 2)


class _Trainee:
    """The quantized layers as numbers that are learned."""

    def __init__(self, task: QuantizationTask, placement: Placement, layers: Layers) -> None:
        import onnx

        constants = {tensor.name: tensor for tensor in task.model.graph.initializer}
        nodes = {node.name: node for node in task.model.graph.node}
        shared = group_by_step(task.model, (one.data for one in placement.candidates))
        self._first = {data: parts[0] for data, parts in shared.items()}
        self._placement, self._layers = placement, layers
        self.factors = {first: torch.tensor(_START, requires_grad=True) for first in self._first.values()}
        self.offsets: dict[str, Tensor] = {}
        """How far each weight is moved, in distances between two numbers of the format."""
        self._format = task.format
        self._plain: dict[str, Tensor] = {}
        self._spacing: dict[str, Tensor] = {}
        self._steps: dict[str, Tensor] = {}
        for name, layer in layers.items():
            weight = torch.from_numpy(np.array(onnx.numpy_helper.to_array(constants[nodes[name].input[1]])))
            self._steps[name] = torch.from_numpy(np.array(layer.weight_scale))
            plain = weight / self._steps[name].reshape(-1, 1, 1, 1)
            self._plain[name] = plain
            self._spacing[name] = torch.from_numpy(self._format.spacing(plain.numpy())).float()
            self.offsets[name] = torch.zeros_like(plain).requires_grad_()

    def quantize(self) -> Mapping[str, Quantized]:
        """All layers, for gradients to flow to what is learned."""
        return {
            one.name: Quantized(
                self._layers[one.name].input_scale * self.factors[self._first[one.data]],
                self._round(one.name),
                self._steps[one.name],
                None if (bias := self._layers[one.name].bias) is None else torch.from_numpy(bias),
            )
            for one in self._placement.candidates
        }

    @torch.no_grad()
    def keep_within(self) -> None:
        """Bring weights back to half a distance around what the network has, and factors into their range."""
        for offset in self.offsets.values():
            offset.clamp_(-0.5, 0.5)
        for factor in self.factors.values():
            factor.clamp_(MIN_FACTOR, MAX_FACTOR)

    def read(self) -> Learned:
        """What was learned."""
        moved = {}
        for name in self.offsets:
            chosen = self._format.round(self._round(name).detach().numpy())
            steps_away = self._format.rank(chosen) - self._format.rank(self._layers[name].weight)
            moved[name] = steps_away.clip(-1, 1).astype(np.int8)
        return Learned({data: float(self.factors[first].detach()) for data, first in self._first.items()}, moved)

    def _round(self, name: str) -> Tensor:
        """The numbers of a layer, with the gradient of what they were before they were rounded (Bengio et al. 2013)."""
        exact = self._plain[name] + self.offsets[name] * self._spacing[name]
        largest = self._format.largest
        rounded = round_to_e4m3(exact) if self._format is FP8 else exact.round().clamp(-largest, largest)
        return exact + (rounded - exact).detach()
