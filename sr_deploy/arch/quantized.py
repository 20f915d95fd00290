"""Convolutions that compute as INT8 ones will, through which gradients flow: quantization-aware training.

Data and weights become integers, are multiplied as such, and the sums are scaled afterwards:

    q(x) = clamp(round(x / s), -128, 127)        y = s t conv(q(x), round(w / t)) + b

so BF16, which holds integers up to 256 exactly, loses nothing of them; PyTorch's own `fake_quantize` functions
multiply by the scale first, which BF16 rounds. Inside the range gradients go through rounding as if there were none
(Bengio et al. 2013).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional

from sr_deploy.errors import CheckpointError

LEVELS = 127
"""Greatest quantized magnitude of weights, and of a calibrated range."""
E4M3_LARGEST = 448.0
"""Greatest number of FP8 (E4M3)."""
LEAST_SCALE = 2.0**-20
"""FP16 steps by 2^-24 here: a scale rounded up to it is off by a sixteenth at most."""


class _RoundToLevels(torch.autograd.Function):
    """q(x); the gradient of the step is of Esser et al. 2020, equation 3, as far as it comes through the numbers."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor, step: Tensor, in_fp8: bool) -> Tensor:
        exact = values / step.to(values.dtype)
        rounded = round_to_e4m3(exact) if in_fp8 else exact.round().clamp(-LEVELS - 1, LEVELS)
        inside = exact.abs() <= E4M3_LARGEST if in_fp8 else (rounded - exact).abs() <= 0.5
        ctx.save_for_backward(exact, rounded, inside, step)
        return rounded

    @staticmethod
    def backward(ctx: FunctionCtx, arriving: Tensor) -> tuple[Tensor, Tensor | None, None]:
        exact, rounded, inside, step = ctx.saved_tensors  # type: ignore[attr-defined]
        gradient = arriving / step.to(arriving.dtype)
        if not ctx.needs_input_grad[1]:  # type: ignore[attr-defined]
            return gradient * inside, None, None
        of_step = (gradient * torch.where(inside, rounded - exact, rounded)).sum(dtype=torch.float32)
        return gradient * inside, of_step.reshape(step.shape), None


def round_to_levels(values: Tensor, step: Tensor, *, in_fp8: bool = False) -> Tensor:
    """Values over a step (a scalar), as integers from -128 to 127 or as E4M3 numbers, of the type of `values`.

    The gradient that arrives is taken for one of the numbers times the step, since whoever scales the result does so
    without telling autograd of the step.
    """
    return _RoundToLevels.apply(values, step, in_fp8)  # type: ignore[no-any-return,no-untyped-call]


def round_to_e4m3(values: Tensor) -> Tensor:
    """The nearest E4M3 numbers, at most 448 in magnitude, of the type of `values`; BF16 holds each of them."""
    return values.clamp(-E4M3_LARGEST, E4M3_LARGEST).to(torch.float8_e4m3fn).to(values.dtype)


def find_weight_steps(weight: Tensor) -> Tensor:
    """The step of each output channel's weights: the smallest that FP16 holds and that 127 of reach them all.

    Args:
        weight: output channels x input channels x height x width, FP32.

    Returns:
        FP32, one for each output channel.
    """
    exact = (weight.detach().abs().amax(dim=(1, 2, 3)).double() / LEVELS).clamp(min=LEAST_SCALE)
    rounded = exact.half()
    # Positive numbers of FP16 ascend as the integers of their bits do.
    raised = torch.where(rounded.double() < exact, rounded.view(torch.int16) + 1, rounded.view(torch.int16))
    return raised.view(torch.float16).float()


class QuantizedConv2d(nn.Conv2d):
    """A convolution that computes as its INT8 form: one step for its data, one for each output channel's weights."""

    input_step: Tensor
    """FP32 scalar, fixed; in no state dict."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """As `Conv2d`, with the rounding of INT8."""
        steps = find_weight_steps(self.weight)
        exact = self.weight / steps.reshape(-1, 1, 1, 1)
        weight = exact + (exact.round() - exact).detach()
        levels = round_to_levels(x_NCHW, self.input_step)
        sums = functional.conv2d(levels, weight, None, self.stride, self.padding, self.dilation)
        scaled = sums * (self.input_step * steps).reshape(1, -1, 1, 1).to(sums.dtype)
        return scaled if self.bias is None else scaled + self.bias.reshape(1, -1, 1, 1).to(sums.dtype)


def quantize_convolutions(network: nn.Module, input_steps: Mapping[str, float]) -> None:
    """Let convolutions of a network compute as INT8 ones, in place; its state dict stays as it is.

    Args:
        network: on any device.
        input_steps: one step of each convolution's data input, by name of the module.

    Raises:
        CheckpointError: a name that is no plain convolution of the network.
    """
    modules = dict(network.named_modules())
    for name, step in input_steps.items():
        convolution = modules.get(name)
        if type(convolution) is not nn.Conv2d or convolution.groups != 1 or convolution.padding_mode != "zeros":
            raise CheckpointError(f"steps are given for {name!r}, which is not a plain convolution of this network")
        convolution.__class__ = QuantizedConv2d
        device = convolution.weight.device
        convolution.register_buffer("input_step", torch.tensor(step, device=device), persistent=False)
