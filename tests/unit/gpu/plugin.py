"""For pytest's `-p`: tests of real GPUs see a simulated one, and fail on what it finds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.unit.gpu.conftest import CARDS
from tests.unit.gpu.streams import Gpu
from tests.unit.gpu.tensors import torch_cuda

_GPU = Gpu(len(CARDS))
_PATCH = pytest.MonkeyPatch()
_PATCH.setattr("sr_deploy.gpus._ask_once", lambda: CARDS)
_PATCH.setattr(torch.Tensor, "cuda", lambda self: self.to("cuda:0"), raising=False)
_SIMULATED = torch_cuda(_GPU)
_SIMULATED.__enter__()  # until the process ends


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: Any) -> Any:
    """The test, and then the end of all that it has queued."""
    del item
    result = yield
    _GPU.finish()
    return result
