"""A GPU's clock is locked and let go by nvidia-smi; here a script that writes down what it is asked."""

import pytest

from sr_deploy.gpus import Gpu
from sr_deploy.measure.clocks import LockedClock

GPU = Gpu("NVIDIA H200", "sm90", "GPU-1b4e28ba-2fa1-11d2-883f-0016d3cca427")
LOCK = f"--id={GPU.uuid} --lock-gpu-clocks=1500,1500"
LET_GO = f"--id={GPU.uuid} --reset-gpu-clocks"


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Makes an nvidia-smi that runs these lines of sh, and gives what it was asked so far."""

    def make(lines=""):
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\n{lines}\n')
        tool.chmod(0o755)
        return lambda: (tmp_path / "asked").read_text().splitlines()

    monkeypatch.setenv("PATH", str(tmp_path))
    return make


def test_the_clock_is_locked_inside_and_let_go_behind(smi):
    asked = smi()
    with LockedClock(GPU, 1500) as lock:
        assert asked() == [LOCK]
    assert asked() == [LOCK, LET_GO]
    assert (lock.record.mhz, lock.record.refused, lock.record.kept) == (1500, None, None)


def test_it_is_let_go_whatever_happens_inside(smi):
    asked = smi()
    with pytest.raises(KeyboardInterrupt), LockedClock(GPU, 1500):
        raise KeyboardInterrupt
    assert asked() == [LOCK, LET_GO]


def test_an_interruption_while_it_is_locked_lets_it_go_too(smi, monkeypatch):
    asked = smi()
    run = LockedClock._ask

    def interrupted(self, option):
        run(self, option)
        if option.startswith("--lock"):
            raise KeyboardInterrupt

    monkeypatch.setattr(LockedClock, "_ask", interrupted)
    with pytest.raises(KeyboardInterrupt), LockedClock(GPU, 1500):
        pytest.fail("it was interrupted before")
    assert asked() == [LOCK, LET_GO]


def test_where_it_may_not_be_locked_nothing_is_set_back(smi):
    asked = smi("echo 'The current user does not have permission to change clocks'; echo 'Terminating early'; exit 4")
    with LockedClock(GPU, 1500) as lock:
        pass
    assert asked() == [LOCK]
    assert lock.record.refused == "The current user does not have permission to change clocks"


def test_a_clock_that_stays_locked_is_said(smi):
    smi('case "$*" in *reset*) echo "GPU is lost"; exit 15;; esac')
    with LockedClock(GPU, 1500) as lock:
        pass
    assert (lock.record.refused, lock.record.kept) == (None, "GPU is lost")


@pytest.mark.parametrize("gpu", [None, Gpu("Orin (nvgpu)", "sm87")])
def test_without_a_gpu_that_can_be_named_no_clock_of_another_is_touched(smi, tmp_path, gpu):
    smi()
    with LockedClock(gpu, 1500) as lock:
        pass
    assert lock.record.refused == "no NVIDIA GPU is known here"
    assert not (tmp_path / "asked").exists()


def test_without_nvidia_smi_it_is_not_locked(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with LockedClock(GPU, 1500) as lock:
        pass
    assert lock.record.refused == "there is no nvidia-smi here"
