"""What an SDK says of a failure is kept for the error; tests/unit/gpu has the failures of engines."""

from __future__ import annotations

import threading
from types import ModuleType
from typing import Any

import pytest

from sr_deploy.backends.registry import get_builder
from sr_deploy.backends.tensorrt.open_engine import load_engine
from sr_deploy.backends.tensorrt.runner import choose_device
from sr_deploy.backends.tensorrt.sdk import sdk_log, take_errors
from sr_deploy.bundle.trust import EngineTrust
from sr_deploy.errors import BackendError

OTHER = "IExecutionContext::enqueueV3: Error Code 1: Cask (Cask convolution execution)"


class Severity:
    INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)


SDK = ModuleType("tensorrt")
vars(SDK).update(ILogger=type("Logger", (), {"Severity": Severity}))


def test_errors_of_another_thread_are_not_taken() -> None:
    take_errors()
    thread = threading.Thread(target=lambda: sdk_log(SDK).log(Severity.ERROR, OTHER))
    thread.start()
    thread.join()
    assert take_errors() == ""
    sdk_log(SDK).log(Severity.ERROR, OTHER)
    sdk_log(SDK).log(Severity.INFO, "all is well")
    assert (take_errors(), take_errors()) == (OTHER, "")


def test_the_real_bindings_tell_it_there(tmp_path: Any) -> None:
    pytest.importorskip("tensorrt_rtx")
    path = tmp_path / "broken.engine"
    path.write_bytes(b"no engine" * 100)
    sdk = get_builder("tensorrt-rtx").select_sdk()
    with pytest.raises(BackendError, match=r"cannot load .*broken.engine \(.+\); build it again"):
        load_engine(sdk, path, EngineTrust(elsewhere=True))
    assert sdk_log(sdk) is sdk_log(sdk)


@pytest.mark.parametrize(
    ("name", "found"), [(None, "cuda:0"), ("cuda", "cuda:0"), ("cuda:0", "cuda:0"), ("cuda:1", "cuda:1")]
)
def test_a_device_has_the_number_that_tensors_on_it_have(name: str | None, found: str) -> None:
    assert str(choose_device(name, "tensorrt")) == found


@pytest.mark.parametrize("name", ["cpu", "tpu", "cuda:x"])
def test_engines_run_on_gpus(name: str) -> None:
    with pytest.raises(BackendError, match=f"tensorrt runs on an NVIDIA GPU, not on '{name}'"):
        choose_device(name, "tensorrt")
