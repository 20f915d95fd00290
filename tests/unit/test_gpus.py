"""GPUs as the CUDA driver shows them. The driver is made up: its functions write where they are told to, as C does."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import uuid
from typing import Any

import pytest

from sr_deploy import gpus
from sr_deploy.gpus import Gpu, find_gpu, list_gpus, visible_gpus

FIRST, SECOND = uuid.UUID(int=7), uuid.UUID(int=8)
CARDS = [("NVIDIA GeForce RTX 4090", 8, 9, FIRST), ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 9, 0, SECOND)]


class Driver:
    """CUDA's driver API, version 12."""

    def __init__(self, cards: list[tuple[str, int, int, uuid.UUID]], refuses: str = "") -> None:
        self.cards, self.refuses = cards, refuses

    def __getattr__(self, name: str) -> Any:
        answer = {
            "cuInit": lambda flags: None,
            "cuDeviceGetCount": lambda count: write(count, len(self.cards)),
            "cuDeviceGet": lambda device, number: write(device, number + 40),  # a handle, not the number
            "cuDeviceGetName": lambda name, length, device: write(name, self.card(device)[0].encode()[: length - 1]),
            "cuDeviceGetAttribute": lambda value, which, device: write(value, self.card(device)[{75: 1, 76: 2}[which]]),
            "cuDeviceGetUuid": lambda identity, device: write(identity, b"old".ljust(16)),
            "cuDeviceGetUuid_v2": lambda identity, device: write(identity, self.card(device)[3].bytes),
        }[name]

        def call(*arguments: Any) -> int:
            if name == self.refuses:
                return 100
            answer(*arguments)
            return 0

        return call

    def card(self, device: ctypes.c_int) -> tuple[str, int, int, uuid.UUID]:
        return self.cards[device.value - 40]


def write(target: Any, value: int | bytes) -> None:
    if isinstance(value, bytes):
        target[: len(value)] = value
    else:
        target._obj.value = value


def test_gpus_come_in_the_order_of_cuda_with_their_identity() -> None:
    assert list_gpus(Driver(CARDS)) == [
        Gpu("NVIDIA GeForce RTX 4090", "sm89", f"GPU-{FIRST}"),
        Gpu("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "sm90", f"GPU-{SECOND}"),
    ]
    assert list_gpus(Driver([("Orin (nvgpu)", 8, 7, FIRST)]))[0].compute_capability == "sm87"
    assert list_gpus(Driver([])) == []


@pytest.mark.parametrize("call", ["cuInit", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetName", "cuDeviceGetUuid_v2"])
def test_a_driver_that_refuses_is_an_error(call: str) -> None:
    with pytest.raises(OSError, match="the CUDA driver refuses"):
        list_gpus(Driver(CARDS, refuses=call))


@pytest.mark.parametrize(("device", "place"), [(None, 0), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), ("cuda:2", None)])
def test_a_device_is_found_by_its_number(
    device: str | None, place: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tuple(list_gpus(Driver(CARDS)))
    monkeypatch.setattr(gpus, "_ask_once", lambda: found)
    assert find_gpu(device) == (None if place is None else found[place])


def test_a_process_of_its_own_asks_the_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Where its library loads and there is no GPU, as with a library that has no such functions, there are none."""
    gpus._ask_once.cache_clear()
    monkeypatch.setattr(gpus, "_LIBRARY", "libc.so.6")
    asked = []

    def run(words: list[str]) -> str:
        asked.append(words)
        return '[{"name": "NVIDIA L4", "compute_capability": "sm89", "uuid": "GPU-1"}]'

    monkeypatch.setattr(gpus, "_run", run)
    assert visible_gpus() == (Gpu("NVIDIA L4", "sm89", "GPU-1"),)
    assert asked == [[sys.executable, "-I", gpus.__file__]]
    gpus._ask_once.cache_clear()
    done = subprocess.run(asked[0], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        assert done.stdout.startswith("[")
    else:
        assert "OSError" in done.stderr
