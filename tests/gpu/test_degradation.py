from __future__ import annotations

import pytest
import torch

from sr_deploy.train.degradation import Degrader, PairPool
from sr_deploy.train.degradation.filters import filter_samples
from sr_deploy.train.degradation.jpeg import compress_jpeg
from sr_deploy.train.degradation.kernels import find_sizes, make_kernels
from sr_deploy.train.degradation.resize import resize
from sr_deploy.train.recipe import load_recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a CUDA build of torch"),
]


@pytest.fixture
def images() -> torch.Tensor:
    smooth = torch.rand(6, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(smooth, size=160, mode="bicubic").clamp(0, 1)


def make_degrader(device: str) -> Degrader:
    recipe = load_recipe("realesrnet").degradation
    assert recipe is not None
    recipe = recipe.model_copy(update={"canvas": 160})
    return Degrader(recipe, scale=4, patch_size=96, seed=0, device=torch.device(device))


def test_parts_without_noise_agree_with_the_cpu(images):
    draw = make_degrader("cpu").draw(0, 0, 6)
    kernels = [make_kernels(draw.stages[0].kernel, 21, torch.device(device)) for device in ("cpu", "cuda")]
    assert (kernels[0] - kernels[1].cpu()).abs().max() < 1e-6
    sizes = find_sizes(draw.stages[0].kernel)
    blurred = filter_samples(images, kernels[0], sizes), filter_samples(images.cuda(), kernels[1], sizes).cpu()
    assert (blurred[0] - blurred[1]).abs().max() < 1e-5
    for mode in ("area", "bilinear", "bicubic"):
        assert (resize(images, (97, 31), mode) - resize(images.cuda(), (97, 31), mode).cpu()).abs().max() < 1e-5
    quality = torch.tensor([30, 40, 50, 60, 80, 95])
    compressed = compress_jpeg(images, quality), compress_jpeg(images.cuda(), quality).cpu()
    assert (compressed[0] - compressed[1]).abs().mean() * 255 < 0.1


def test_pairs_are_made_on_the_gpu_and_are_the_same_again(images):
    for step in range(8):
        pair = make_degrader("cuda").degrade(images.cuda(), step)
        again = make_degrader("cuda").degrade(images.cuda(), step)
        assert pair.lr_NCHW.is_cuda
        assert torch.equal(pair.lr_NCHW, again.lr_NCHW)
        on_cpu = make_degrader("cpu").degrade(images, step)
        assert torch.equal(pair.hr_NCHW.cpu(), on_cpu.hr_NCHW)
        assert pair.lr_NCHW.cpu().mean((1, 2, 3)).sub(on_cpu.lr_NCHW.mean((1, 2, 3))).abs().max() < 0.03


def test_the_pool_stays_on_the_gpu(images):
    pool, degrader = PairPool(10, 0), make_degrader("cuda")
    for step in range(4):
        given = pool.exchange(degrader.degrade(images.cuda(), step), step)
        assert given.hr_NCHW.is_cuda
    assert pool.state_dict()["hr"].is_cuda
