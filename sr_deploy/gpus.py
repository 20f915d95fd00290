"""The NVIDIA GPUs that CUDA sees, in CUDA's order: GPU number 1 here is `cuda:1` to PyTorch and TensorRT.

The driver itself is asked, which heeds `CUDA_VISIBLE_DEVICES`, knows slices of a GPU (MIG) and Jetsons, and is there in
containers without nvidia-smi. A process of its own asks it, since one that has begun with CUDA cannot fork; it runs
this file, which imports nothing but Python's own library.
"""

from __future__ import annotations

import ctypes
import functools
import json
import shutil
import subprocess
import sys
import uuid
from dataclasses import asdict, dataclass
from typing import Any

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_MAJOR, _MINOR = 75, 76
"""Attributes of a device in CUDA's driver API: the two numbers of its compute capability."""
_LONGEST_NAME = 256
_SECONDS = 30


@dataclass(frozen=True)
class Gpu:
    """A GPU that the driver shows."""

    name: str
    """As the driver spells it, as in `NVIDIA GeForce RTX 4090`."""
    compute_capability: str
    """As in `sm89` (compute capability 8.9)."""
    uuid: str = ""
    """Which of several alike, as in `GPU-1b4e28ba-2fa1-11d2-883f-0016d3cca427`; empty: not known."""


def visible_gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA sees; none where there is no driver. Without the driver's library those of nvidia-smi."""
    return _ask_once()


@functools.cache
def _ask_once() -> tuple[Gpu, ...]:
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError:
        return _ask_nvidia_smi()
    answer = _run([sys.executable, "-I", __file__])
    return () if answer is None else tuple(Gpu(**one) for one in json.loads(answer))


def find_gpu(device: str | None) -> Gpu | None:
    """The GPU that a device's name means: `cuda:1` the second, `cuda` and None the first; None if there is none."""
    number = (device or "").partition(":")[2]
    gpus = visible_gpus()
    place = int(number) if number.isdecimal() else 0
    return gpus[place] if place < len(gpus) else None


def list_gpus(driver: Any) -> list[Gpu]:  # noqa: ANN401 - a library's functions have no types
    """What the CUDA driver shows.

    Args:
        driver: its library, or something with the same functions.

    Raises:
        OSError: it refuses; the code is CUDA's.
    """
    count = ctypes.c_int()
    _check(driver.cuInit(0))
    _check(driver.cuDeviceGetCount(ctypes.byref(count)))
    return [_describe(driver, number) for number in range(count.value)]


def _describe(driver: Any, number: int) -> Gpu:  # noqa: ANN401
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name, identity = ctypes.create_string_buffer(_LONGEST_NAME), ctypes.create_string_buffer(16)
    _check(driver.cuDeviceGet(ctypes.byref(device), number))
    _check(driver.cuDeviceGetName(name, len(name), device))
    _check(driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device))
    _check(driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device))
    # The second form tells slices of a GPU apart; old drivers have the first alone.
    ask = getattr(driver, "cuDeviceGetUuid_v2", None) or driver.cuDeviceGetUuid
    _check(ask(identity, device))
    spelled = name.value.decode("utf-8", "replace")
    return Gpu(spelled, f"sm{major.value}{minor.value}", f"GPU-{uuid.UUID(bytes=identity.raw)}")


def _check(code: int) -> None:
    if code:
        raise OSError(code, "the CUDA driver refuses")


def _ask_nvidia_smi() -> tuple[Gpu, ...]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    answer = _run([tool, "--query-gpu=name,compute_cap", "--format=csv,noheader"])
    return () if answer is None else parse_gpu_list(answer)


def _run(words: list[str]) -> str | None:
    """What a command writes; None if it fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def parse_gpu_list(text: str) -> tuple[Gpu, ...]:
    """Read lines of `name, compute capability`, as `nvidia-smi` prints them."""
    gpus = []
    for line in text.splitlines():
        name, comma, capability = line.rpartition(",")
        if comma and name.strip():
            gpus.append(Gpu(name.strip(), plain_capability(capability)))
    return tuple(gpus)


def plain_capability(text: str) -> str:
    """`8.9`, `89`, `sm_89` and `SM89` as `sm89`."""
    return "sm" + text.strip().lower().removeprefix("sm").lstrip("_").replace(".", "")


if __name__ == "__main__":
    json.dump([asdict(gpu) for gpu in list_gpus(ctypes.CDLL(_LIBRARY))], sys.stdout)
