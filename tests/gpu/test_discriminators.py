"""What only a GPU's autocast does: there matrix-vector products are computed in half precision too."""

from __future__ import annotations

import pytest
import torch

from sr_deploy.arch.discriminators import build_discriminator
from sr_deploy.arch.spec import DiscriminatorSpec
from sr_deploy.arch.vgg import Vgg19Features

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and PyTorch for CUDA"),
]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_spectral_norm_is_followed_in_fp32_under_autocast(dtype):
    spec = DiscriminatorSpec(architecture="unet", features=8, spectral_norm=True)
    torch.manual_seed(0)
    network = build_discriminator(spec).cuda().train()
    images = torch.rand(2, 3, 32, 32, device="cuda")
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    states = []
    for enabled in (True, False):
        network.load_state_dict(before)
        with torch.autocast("cuda", dtype=dtype, enabled=enabled):
            for _ in range(3):
                verdict = network(images)
        verdict.float().mean().backward()
        states.append({key: tensor.clone() for key, tensor in network.state_dict().items() if key.endswith("_u")})
    half, full = states
    assert len(full) == 8
    for key, tensor in full.items():
        torch.testing.assert_close(half[key], tensor, rtol=0, atol=0)
        assert not torch.equal(tensor, before[key])


def test_features_are_fp32_under_autocast():
    torch.manual_seed(0)
    network = Vgg19Features(["conv2_2"]).cuda()
    images = torch.rand(1, 3, 32, 32, device="cuda")
    plain = network(images)["conv2_2"]
    with torch.autocast("cuda", dtype=torch.float16):
        torch.testing.assert_close(network(images)["conv2_2"], plain, rtol=0, atol=0)
