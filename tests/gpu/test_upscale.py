"""Tiles on a GPU. Not executed while it was written: no machine with one was at hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.arch.weights import save_generator
from sr_deploy.runners import open_runner
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.memory import free_memory

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    torch.manual_seed(0)
    spec = ArchSpec(architecture="compact", scale=2, features=16, blocks=2)
    path = tmp_path_factory.mktemp("gpu") / "net.safetensors"
    save_generator(path, build_network(spec).state_dict(), spec)
    return path


@pytest.mark.parametrize("channels", [1, 3])
def test_the_gpu_gives_what_the_cpu_gives(path, channels):
    lr = np.random.default_rng(0).integers(0, 256, (301, 407, channels), np.uint8)
    with open_runner(path, "torch:fp32", device="cpu") as cpu, open_runner(path, "torch:fp32", device="cuda:0") as gpu:
        expected = Upscaler(cpu, tile=64, halo=4)(lr)
        upscaled = Upscaler(gpu, tile=64, halo=4).upscale(lr)
    assert upscaled.report.tiles == 35
    assert np.abs(upscaled.image.astype(int) - expected).max() <= 1


def test_a_gpu_that_is_full_halves_the_tile(path):
    lr = np.random.default_rng(0).integers(0, 256, (2048, 2048, 3), np.uint8)
    with Upscaler(path, backend="torch:fp32", tile=0) as upscale:
        expected = upscale(lr)
        torch.cuda.empty_cache()
        held = torch.empty(free_memory("cuda:0") - 400 * 2**20, dtype=torch.uint8, device="cuda:0")
        upscaled = upscale.upscale(lr)
        del held
    assert upscaled.report.halvings >= 1
    assert np.abs(upscaled.image.astype(int) - expected).max() <= 1
