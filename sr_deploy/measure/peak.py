"""What this machine's arithmetic and memory reach: a matrix product in each precision, and a copy. By torch."""

from __future__ import annotations

import functools
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import BaseModel

from sr_deploy.backends import PRECISIONS, Precision
from sr_deploy.errors import BackendError
from sr_deploy.measure.machine import has_multiplier
from sr_deploy.measure.timer import time_call

if TYPE_CHECKING:
    import torch

_CPU_SIDES = (512, 1024, 2048)
_GPU_SIDES = (4096, 8192)
_SECONDS_EACH = 0.3
_CPU_COPY_BYTES = 256 * 2**20  # beyond the caches of most processors
_GPU_COPY_BYTES = 2**30


class Peaks(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What a device reaches."""

    device: str
    """As in `cpu` or `cuda:0`."""
    threads: int
    """Of the CPU."""
    matrix_gflops: dict[Precision, float]
    """Fastest product of square matrices, in billions of operations a second (two for each multiply-add); precisions
    that torch does not compute here as such are left out."""
    copy_gb_per_second: float
    """Fastest copy of a large array: bytes read and bytes written, in billions a second."""


def measure_peaks(device: str, threads: int) -> Peaks:
    """Measure in this process, some seconds; the fastest call counts.

    Args:
        device: `cpu` or as in `cuda:0`.
        threads: of the CPU; holds for the whole process from then on.
    """
    import torch

    torch.set_num_threads(threads)
    on_gpu = device != "cpu"
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    matrix = {}
    for precision in PRECISIONS:
        rate = _fastest_product(torch.device(device), precision, wait)
        if rate is not None:
            matrix[precision] = rate / 1e9
    size = (_GPU_COPY_BYTES if on_gpu else _CPU_COPY_BYTES) // 4
    source = torch.zeros(size, device=device)
    target = torch.zeros(size, device=device)
    seconds = _fastest(lambda: target.copy_(source), wait)
    return Peaks(
        device=device, threads=threads, matrix_gflops=matrix, copy_gb_per_second=2 * source.nbytes / seconds / 1e9
    )


@functools.cache
def measure_peaks_apart(device: str, threads: int) -> Peaks:
    """As `measure_peaks`, in a process of its own, so that this one needs no torch; measured once, then remembered.

    Raises:
        BackendError: it failed.
    """
    command = [sys.executable, "-P", "-m", "sr_deploy.measure.peak", device, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise BackendError(f"the peak of {device} could not be measured: {last}")
    return Peaks.model_validate_json(done.stdout.splitlines()[-1])


def _fastest_product(device: torch.device, precision: Precision, wait: Callable[[], None]) -> float | None:
    """Operations a second; None where torch has no such product, or no instructions for it."""
    if device.type == "cpu" and not has_multiplier(precision):
        return None
    rates = []
    for side in _CPU_SIDES if device.type == "cpu" else _GPU_SIDES:
        try:
            seconds = _fastest(_make_product(device, precision, side), wait)
        except (RuntimeError, NotImplementedError):
            return None  # no product of these types, or on this device
        rates.append(2 * side**3 / seconds)
    return max(rates)


def _make_product(device: torch.device, precision: Precision, side: int) -> Callable[[], object]:
    import torch

    # Random numbers: zeros take less power, and a GPU then keeps a higher clock.
    generator = torch.Generator().manual_seed(0)
    if precision == "int8":
        whole = [torch.randint(-127, 128, (side, side), dtype=torch.int8, generator=generator) for _ in range(2)]
        first, second = (one.to(device) for one in whole)
        return lambda: torch._int_mm(first, second)  # the only product of int8 with sums in int32 that torch has
    if precision == "fp8":
        numbers = [torch.randn(side, side, generator=generator).to(torch.float8_e4m3fn) for _ in range(2)]
        first, second = (one.to(device) for one in numbers)
        one = torch.ones((), device=device)
        # torch's only product of FP8; it takes the second matrix by columns.
        return lambda: torch._scaled_mm(first, second.t(), one, one, out_dtype=torch.bfloat16)
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    left, right = (torch.randn(side, side, generator=generator).to(device, dtype) for _ in range(2))
    # Not a shortcut through TF32 or bf16: `fp32` is IEEE single precision.
    torch.backends.mkldnn.matmul.fp32_precision = "ieee"  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    return lambda: torch.matmul(left, right)


def _fastest(call: Callable[[], object], wait: Callable[[], None]) -> float:
    def call_and_wait() -> None:
        call()
        wait()

    call_and_wait()
    fastest = float("inf")
    deadline = time.monotonic() + _SECONDS_EACH
    while time.monotonic() < deadline:
        fastest = min(fastest, time_call(call_and_wait))
    return fastest


if __name__ == "__main__":
    sys.stdout.write(measure_peaks(sys.argv[1], int(sys.argv[2])).model_dump_json() + "\n")
