"""One execution context of an engine, on torch's memory. Thin, because only a GPU can run it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from sr_deploy.bundle import Profile, Shape
from sr_deploy.errors import ShapeError
from sr_deploy.runners.open_engine import engine_error
from sr_deploy.runners.protocol import RunnerSpec
from sr_deploy.trt import take_errors

if TYPE_CHECKING:
    # The two SDKs have the same names in both modules; either serves to read this file.
    import tensorrt_rtx as trt


class EngineContext:
    """What runs an engine, for one shape at a time."""

    def __init__(
        self, context: trt.IExecutionContext, names: tuple[str, str], output_dtype: torch.dtype, spec: RunnerSpec
    ) -> None:
        """Take a context.

        Args:
            context: of the engine, with its first profile.
            names: of the input and the output.
            output_dtype: of the output.
            spec: what the engine takes.
        """
        self._context = context
        self._input, self._output = names
        self._output_dtype = output_dtype
        self._spec = spec
        self._profile = 0

    def __call__(self, lr: torch.Tensor) -> torch.Tensor:
        """Queue an inference on the current stream.

        Raises:
            ShapeError: outside every profile.
            BackendError: TensorRT failed.
            OutOfMemoryError: for want of memory.
        """
        take_errors()  # of others, before
        handle = torch.cuda.current_stream(lr.device).cuda_stream
        context = self._context
        n, _, h, w = as_nchw(lr.shape, self._spec)
        self._use_profile(choose_profile(self._spec.profiles, Shape(n, h, w)), handle)
        accepted = context.set_input_shape(self._input, tuple(lr.shape))
        shape = tuple(context.get_tensor_shape(self._output))
        if not accepted or min(shape) < 1:
            raise engine_error(f"{self._spec} refused the shape {'x'.join(map(str, lr.shape))}")
        sr = torch.empty(shape, dtype=self._output_dtype, device=lr.device)
        bound = context.set_tensor_address(self._input, lr.data_ptr()) and context.set_tensor_address(
            self._output, sr.data_ptr()
        )
        if not bound or not context.execute_async_v3(handle):
            raise engine_error(f"{self._spec} failed on {'x'.join(map(str, lr.shape))}")
        return sr

    def _use_profile(self, wanted: int, handle: int) -> None:
        if wanted != self._profile:
            if not self._context.set_optimization_profile_async(wanted, handle):
                raise engine_error(f"{self._spec} could not switch to the profile {self._spec.profiles[wanted].name}")
            self._profile = wanted


def choose_profile(profiles: Sequence[Profile], shape: Shape) -> int:
    """Index of the profile that `shape` fits and whose tuned shape is nearest to it in pixels.

    Raises:
        ShapeError: it fits none.
    """
    fitting = [index for index, profile in enumerate(profiles) if profile.contains(shape)]
    if not fitting:
        raise ShapeError(f"{shape} lies outside every profile: {'; '.join(map(str, profiles))}")
    pixels = shape.n * shape.h * shape.w
    return min(fitting, key=lambda index: abs(math.log(math.prod(profiles[index].opt) / pixels)))


def as_nchw(shape: Sequence[int], spec: RunnerSpec) -> tuple[int, ...]:
    """A shape as `spec` has it, in the order N, C, H, W."""
    return (shape[0], shape[3], shape[1], shape[2]) if spec.layout == "NHWC" and len(shape) == 4 else tuple(shape)
