"""The network's weights in float64: what every other arithmetic is judged by."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sr_deploy.backends.registry import name_float64
from sr_deploy.errors import BackendError, OutOfMemoryError, find_want_of_memory, first_line
from sr_deploy.model import Model


class Float64Network:
    """PyTorch in float64 on the CPU, 2^29 times as fine as FP32; its convolutions take about three times as long."""

    def __init__(self, model: Model) -> None:
        """Load the weights.

        Args:
            model: has them.

        Raises:
            CheckpointError: the model has no weights.
        """
        self._network = model.load_network().to(dtype=torch.float64)

    def infer(self, lr_NCHW: NDArray[np.float32]) -> NDArray[np.float64]:
        """Upscale a batch.

        Args:
            lr_NCHW: float32 in [0, 1].

        Returns:
            float64, N x C x (H * scale) x (W * scale), not clamped.

        Raises:
            OutOfMemoryError: this input needs more memory than there is.
            BackendError: the network does not take this input.
        """
        with torch.inference_mode():
            try:
                sr_NCHW = self._network(torch.from_numpy(lr_NCHW).to(torch.float64))
            except (RuntimeError, MemoryError) as error:
                want = find_want_of_memory(error)
                said = f"{name_float64()} failed on {'x'.join(map(str, lr_NCHW.shape))}: {want or first_line(error)}"
                raise (BackendError(said) if want is None else OutOfMemoryError(said)) from error
        result: NDArray[np.float64] = sr_NCHW.contiguous().numpy()
        return result
