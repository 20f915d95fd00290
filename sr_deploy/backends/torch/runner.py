"""PyTorch: the reference (fp32) and what the other backends are measured against."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from sr_deploy.arch.fold import merge_branches
from sr_deploy.backends import BackendChoice, Precision
from sr_deploy.errors import BackendError, InputError
from sr_deploy.model import Model
from sr_deploy.runners.base import BaseRunner, inference_error
from sr_deploy.runners.cuda_graph import GraphReplay, why_no_cuda
from sr_deploy.runners.protocol import RunnerSpec, check_input_shape

_DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class TorchRunner(BaseRunner):
    """The network's weights in PyTorch.

    fp32 is IEEE single precision whatever the process has allowed elsewhere (TF32 and bf16 shortcuts are off while it
    runs). fp16 and bf16 are true: weights and every feature map are stored in that type, on the CPU too, where fp16 is
    slow and exact about what half precision costs.
    """

    def __init__(
        self,
        model: Model,
        choice: BackendChoice,
        device: str | None,
        threads: int | None,
        *,
        channels_last: bool = True,
        compiled: bool = False,
        cuda_graphs: bool = True,
    ) -> None:
        """Load the weights.

        Args:
            model: has them.
            choice: in which precision.
            device: `cpu` or `cuda:0`; None: the GPU where there is one.
            threads: of the CPU, for the whole process; None leaves them as they are.
            channels_last: memory layout of weights and feature maps; False: PyTorch's default.
            compiled: run it through torch.compile, anew for each shape; a result of `infer_on_device` then holds until
                the next call.
            cuda_graphs: on a GPU, replay what is launched for a shape from its second call on; False: launch kernels
                one by one. torch.compile brings its own.

        Raises:
            BackendError: a precision or a device that torch does not run here.
            CheckpointError: the model has no weights.
        """
        self._dtype = _DTYPES[choice.precision]
        self._device = _find_device(device)
        if threads is not None and torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        # channels_last: 1.4 times faster in fp32 on a CPU with AVX-512, 36 times in fp16 (measured, compact network).
        self._memory_format = torch.channels_last if channels_last else torch.contiguous_format
        network: torch.nn.Module = merge_branches(model.load_network()).to(  # type: ignore[call-overload]
            device=self._device, dtype=self._dtype, memory_format=self._memory_format
        )
        self._network: Callable[[torch.Tensor], torch.Tensor] | None = network
        self._graphs: GraphReplay | None = None
        if compiled:
            self._network = _compile(network, self._device)
        elif cuda_graphs and self._device.type == "cuda":
            self._network = self._graphs = GraphReplay(network, str(choice), self._device)
        super().__init__(
            RunnerSpec(
                backend=choice.backend,
                version=torch.__version__,
                precision=choice.precision,
                device=str(self._device),
                scale=model.scale,
                channels=model.channels,
                input_multiple=model.input_multiple,
                artifact=model.weights_path,
            ),
            splits_batches=self._device.type == "cpu" and not compiled,
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
        with torch.inference_mode(), _EXACT_FP32:
            try:
                sr_NCHW = self._network(lr_NCHW.to(dtype=self._dtype, memory_format=self._memory_format))
            except (RuntimeError, MemoryError) as error:
                if self._device.type == "cuda":
                    torch.cuda.empty_cache()  # what is cached is of other shapes than the next one
                raise inference_error(self.spec, lr_NCHW.shape, error) from error
            return sr_NCHW.to(torch.float32).contiguous()

    def _release(self) -> None:
        if self._graphs is not None:
            self._graphs.clear()  # which waits for the GPU: it may be reading the weights
        self._network = self._graphs = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _compile(network: torch.nn.Module, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """As fast as torch makes it: constants folded in on a CPU, kernels chosen by trial and CUDA graphs on a GPU."""
    if device.type == "cpu":
        return torch.compile(network, dynamic=False, options={"freezing": True})
    return torch.compile(network, dynamic=False, mode="max-autotune")


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
    reason = why_no_cuda()
    if reason is not None:
        raise BackendError(f"torch cannot use {name!r}: {reason}; give 'cpu'")
    if (device.index or 0) >= torch.cuda.device_count():
        raise BackendError(f"there is no {name!r}: this machine has {torch.cuda.device_count()} GPU(s), from cuda:0 on")
    return torch.device("cuda", device.index or 0)  # what tensors there say: without a number they are unequal


class _ExactFp32:
    """FP32 convolutions in FP32: no TF32 on a GPU, no bf16 shortcut on a CPU, whatever the process allows elsewhere.

    The switches hold for the whole process. Where several threads compute, the first one in turns them, and the last
    one out turns them back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._switches = (torch.backends.mkldnn.conv, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
        self._before: list[str] = []

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = [switch.fp32_precision for switch in self._switches]
                for switch in self._switches:
                    switch.fp32_precision = "ieee"
            self._inside += 1

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                for switch, precision in zip(self._switches, self._before, strict=True):
                    switch.fp32_precision = precision


_EXACT_FP32 = _ExactFp32()
