"""Every term, alone, teaches the generator."""

from __future__ import annotations

import pytest
import torch

from sr_deploy.arch.discriminators import build_discriminator
from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec, DiscriminatorSpec
from sr_deploy.train.losses import build_adversarial_loss, build_perceptual_loss, build_pixel_loss
from sr_deploy.train.recipe import LossRecipe, PerceptualRecipe

GENERATOR = ArchSpec(architecture="msrresnet", scale=4, features=8, blocks=1)
DISCRIMINATORS = [
    DiscriminatorSpec(architecture="srgan", features=4, patch_size=32),
    DiscriminatorSpec(architecture="vgg128", features=4, patch_size=32),
    DiscriminatorSpec(architecture="vgg256", features=4, patch_size=64),
    DiscriminatorSpec(architecture="unet", features=4, spectral_norm=True),
    DiscriminatorSpec(architecture="unet", features=4),
]
KINDS = ["vanilla", "least_squares", "hinge", "relativistic_average"]


def generate(side=32, batch=2):
    torch.manual_seed(0)
    generator = build_network(GENERATOR).train()
    lr, hr = torch.rand(batch, 3, side // 4, side // 4), torch.rand(batch, 3, side, side)
    return generator, generator(lr), hr


def assert_teaches(generator, loss):
    assert loss.shape == ()
    assert torch.isfinite(loss)
    loss.backward()
    for name in ("conv_first.weight", "body.0.conv1.weight", "conv_last.weight"):
        gradient = generator.get_parameter(name).grad
        assert gradient is not None, name
        assert torch.isfinite(gradient).all(), name
        assert gradient.abs().max() > 0, name


@pytest.mark.parametrize("pixel", ["l1", "mse", "charbonnier"])
def test_pixel(pixel):
    generator, sr, hr = generate()
    assert_teaches(generator, build_pixel_loss(LossRecipe(pixel=pixel))(sr, hr))


@pytest.mark.parametrize(
    "form",
    [
        {"weight": 0.006, "layers": {"conv3_4": 1}, "activation": "after", "distance": "mse"},
        {"weight": 1, "layers": {"conv3_4": 1}},
        {"weight": 1, "layers": {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1}},
    ],
    ids=["srgan", "esrgan", "realesrgan"],
)
def test_perceptual(form, vgg19):
    generator, sr, hr = generate()
    loss = build_perceptual_loss(PerceptualRecipe.model_validate({**form, "vgg19": str(vgg19)}), sr.device)
    assert_teaches(generator, loss(sr, hr))


@pytest.mark.parametrize("spec", DISCRIMINATORS, ids=lambda spec: spec.title().replace(",", ""))
@pytest.mark.parametrize("kind", KINDS)
def test_adversarial(kind, spec):
    generator, sr, hr = generate(spec.patch_size or 32)
    discriminator = build_discriminator(spec).train()
    loss = build_adversarial_loss(kind)

    verdict = loss.discriminator_loss(discriminator(hr), discriminator(sr.detach()))
    verdict.backward()
    assert all(torch.isfinite(one.grad).all() for one in discriminator.parameters())
    assert all(one.grad is None for one in generator.parameters())
    first = next(discriminator.parameters())
    assert first.grad.abs().max() > 0

    before = first.grad.clone()
    discriminator.requires_grad_(False)
    real = discriminator(hr) if loss.needs_real else None
    assert_teaches(generator, loss.generator_loss(discriminator(sr), real))
    assert torch.equal(first.grad, before)  # the generator's step leaves the discriminator alone
