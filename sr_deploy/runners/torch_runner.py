"""PyTorch, eager: the reference (fp32) and what the other backends are measured against."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from sr_deploy.backends import BackendChoice, Precision
from sr_deploy.errors import BackendError, InputError
from sr_deploy.model import Model
from sr_deploy.runners.base import BaseRunner, inference_error
from sr_deploy.runners.protocol import RunnerSpec, check_input_shape

_DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class TorchRunner(BaseRunner):
    """The network's weights in PyTorch.

    fp32 is IEEE single precision whatever the process has allowed elsewhere (TF32 and bf16 shortcuts are off while it
    runs). fp16 and bf16 are true: weights and every feature map are stored in that type, on the CPU too, where fp16 is
    slow and exact about what half precision costs.
    """

    def __init__(self, model: Model, choice: BackendChoice, device: str | None, threads: int | None) -> None:
        """Load the weights; `threads` of the CPU apply to the whole process, None leaves them as they are.

        Raises:
            BackendError: a precision or a device that torch does not run here.
            CheckpointError: the model has no weights.
        """
        self._dtype = _DTYPES[choice.precision]
        self._device = _find_device(device)
        if threads is not None and torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        network = model.load_network().eval().requires_grad_(False)
        # channels_last: 1.4 times faster in fp32 on a CPU with AVX-512, 36 times in fp16 (measured, compact network).
        self._network: torch.nn.Module | None = network.to(  # type: ignore[call-overload]
            device=self._device, dtype=self._dtype, memory_format=torch.channels_last
        )
        super().__init__(
            RunnerSpec(
                backend="torch",
                version=torch.__version__,
                precision=choice.precision,
                device=str(self._device),
                scale=model.scale,
                channels=model.channels,
                input_multiple=model.input_multiple,
                artefact=model.weights_path,
            )
        )

    def infer_on_device(self, lr: torch.Tensor) -> torch.Tensor:
        """Upscale a float32 N x C x H x W tensor that is on this runner's device; the result stays there, float32.

        Raises:
            InputError: another type or device.
            ShapeError: a shape that the network does not take.
            BackendError: closed, or out of memory.
        """
        self._check_open()
        if lr.dtype != torch.float32 or lr.device != self._device:
            raise InputError(
                f"{self.spec} takes a float32 tensor on {self._device}, not {lr.dtype} on {lr.device}; move it first"
            )
        check_input_shape(tuple(lr.shape), self.spec)
        return self._forward(lr)

    def _infer(self, lr_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        sr: NDArray[np.float32] = self._forward(torch.from_numpy(lr_NCHW).to(self._device)).cpu().numpy()
        return sr

    def _forward(self, lr_NCHW: torch.Tensor) -> torch.Tensor:
        if self._network is None:
            raise BackendError(f"this {self.spec} runner is closed; open another with open_runner")
        with torch.inference_mode(), _exact_fp32():
            try:
                sr_NCHW: torch.Tensor = self._network(lr_NCHW.to(dtype=self._dtype, memory_format=torch.channels_last))
            except (RuntimeError, MemoryError) as error:
                if self._device.type == "cuda":
                    torch.cuda.empty_cache()  # what is cached is of other shapes than the next one
                raise inference_error(self.spec, lr_NCHW.shape, error) from error
            return sr_NCHW.to(torch.float32).contiguous()

    def _release(self) -> None:
        self._network = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _find_device(name: str | None) -> torch.device:
    if name is None:
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BackendError(f"torch knows no device {name!r}; give cpu or cuda:0") from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise BackendError(f"torch runs on cpu or cuda here, not on {name!r}")
    if not torch.cuda.is_available():
        raise BackendError(f"torch cannot use {name!r}: {why_no_cuda()}; give 'cpu'")
    if (device.index or 0) >= torch.cuda.device_count():
        raise BackendError(f"there is no {name!r}: this machine has {torch.cuda.device_count()} GPU(s), from cuda:0 on")
    return torch.device("cuda", device.index or 0)


def why_no_cuda() -> str:
    """Why torch runs on no GPU here, for messages."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    return "this machine has no NVIDIA GPU with a driver that works"


@contextlib.contextmanager
def _exact_fp32() -> Iterator[None]:
    """FP32 convolutions in FP32: no TF32 on a GPU, no bf16 shortcut on a CPU, whatever the process allows elsewhere."""
    switches = (torch.backends.mkldnn.conv, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [switch.fp32_precision for switch in switches]
    for switch in switches:
        switch.fp32_precision = "ieee"
    try:
        yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision
