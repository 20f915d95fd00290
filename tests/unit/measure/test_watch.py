from __future__ import annotations

import time
from pathlib import Path

import pytest

from sr_deploy.measure import watch
from sr_deploy.measure.watch import Watch, summarize_gpus

_GPUS = [
    "0, NVIDIA H200, 1980, 1980, 612.5, 58, 0x0000000000000000",
    "1, NVIDIA H200, 345, 1980, [N/A], 33, 0x0000000000000001",  # idle: nothing holds it back
    "0, NVIDIA H200, 1800, 1980, 700.5, 61, 0x0000000000000004",  # the power cap
    "cut short",
]


def test_gpus_are_summed_up_one_by_one() -> None:
    first, second = summarize_gpus(_GPUS)
    assert (first.name, first.clock_mhz, first.clock_most_mhz) == ("NVIDIA H200", 1890, 1980)
    assert (first.power_watts, first.temperature_c, first.throttled) == (656.5, 61, 0.5)
    assert (first.clock_lowest_mhz, first.clock_highest_mhz) == (1800, 1980)
    assert (second.clock_mhz, second.power_watts, second.throttled) == (345, None, 0)
    assert (second.clock_lowest_mhz, second.clock_highest_mhz) == (None, None)  # it had nothing to do


def test_a_clock_at_rest_is_no_part_of_the_range() -> None:
    idle = "0, NVIDIA H200, 345, 1980, 80, 30, 0x0000000000000001"
    (gpu,) = summarize_gpus([idle, _GPUS[0], _GPUS[2]])
    assert (gpu.clock_lowest_mhz, gpu.clock_highest_mhz) == (1800, 1980)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders as Linux has them, for two cores."""
    for core, mhz in enumerate((3000, 2000)):
        folder = tmp_path / f"cpu{core}"
        for name, text in (
            ("cpufreq/scaling_cur_freq", f"{mhz}000\n"),
            ("thermal_throttle/core_throttle_count", "5\n"),
        ):
            (folder / name).parent.mkdir(parents=True)
            (folder / name).write_text(text)
    (tmp_path / "energy").write_text("1000000\n")
    monkeypatch.setattr(watch, "_CPUS", tmp_path)
    monkeypatch.setattr(watch, "_ENERGY", tmp_path / "energy")
    monkeypatch.setattr(watch, "_INTERVAL_SECONDS", 0.02)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_clocks_power_and_throttling_of_a_cpu(machine: Path) -> None:
    def work() -> str:
        time.sleep(0.1)
        (machine / "cpu1/cpufreq/scaling_cur_freq").write_text("1000000\n")
        (machine / "cpu0/thermal_throttle/core_throttle_count").write_text("8\n")
        (machine / "energy").write_text("3000000\n")  # 2 joules
        time.sleep(0.1)
        return "done"

    started = time.monotonic()
    seeing = Watch()
    result = seeing.during(work)
    taken = time.monotonic() - started
    seen = seeing.summarize()
    assert result == "done"
    assert 1000 <= (seen.cpu_mhz or 0) <= 3000
    assert (seen.cpu_lowest_mhz, seen.cpu_throttled) == (2000, 3)  # 3000 and 1000 at the end
    assert 2 / taken <= (seen.cpu_watts or 0) <= 2 / 0.2
    assert seen.gpus == ()


def test_what_happens_between_two_looks_is_not_seen(machine: Path) -> None:
    def rise(joules: int, slowed: int) -> None:
        (machine / "energy").write_text(f"{joules * 1000000}\n")
        (machine / "cpu0/thermal_throttle/core_throttle_count").write_text(f"{slowed}\n")
        time.sleep(0.05)

    seeing = Watch()
    rise(1, 5)
    seeing.during(lambda: rise(3, 7))
    (machine / "cpu0/cpufreq/scaling_cur_freq").write_text("1000\n")
    rise(100, 100)
    (machine / "cpu0/cpufreq/scaling_cur_freq").write_text("3000000\n")
    started = time.monotonic()
    seeing.during(lambda: rise(101, 101))
    taken = time.monotonic() - started
    seen = seeing.summarize()
    assert (seen.cpu_lowest_mhz, seen.cpu_throttled) == (2500, 3)  # 2 and 1; the mean of 3000 and 2000
    assert 3 / (taken + 5) < (seen.cpu_watts or 0) <= 3 / 0.1  # 2 and 1 joules


def test_nvidia_smi_is_read_until_the_work_ends(machine: Path) -> None:
    smi = machine / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\necho '{_GPUS[0]}'\necho '{_GPUS[2]}'\necho > {machine}/told\nexec /bin/sleep 60\n")
    smi.chmod(0o755)

    def work() -> None:
        deadline = time.monotonic() + 20
        while not (machine / "told").exists() and time.monotonic() < deadline:
            time.sleep(0.01)

    started = time.monotonic()
    seeing = Watch()
    seeing.during(work)
    (gpu,) = seeing.summarize().gpus
    assert (gpu.clock_mhz, gpu.throttled) == (1890, 0.5)
    assert time.monotonic() - started < 50  # it was ended


def test_a_silent_machine_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_CPUS", "_CPUINFO", "_ENERGY"):
        monkeypatch.setattr(watch, name, tmp_path / "nothing")
    monkeypatch.setenv("PATH", str(tmp_path))
    seeing = Watch()
    seeing.during(lambda: None)
    seen = seeing.summarize()
    assert (seen.cpu_mhz, seen.cpu_lowest_mhz, seen.cpu_throttled, seen.cpu_watts, seen.gpus) == (None,) * 4 + ((),)
