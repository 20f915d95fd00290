from __future__ import annotations

import math

import pytest
import torch

from sr_deploy.errors import TrainingError
from sr_deploy.train.losses.adversarial import KINDS

# Logits of two originals and two results: means 2 and 0.5.
REAL = torch.tensor([[3.0], [1.0]])
FAKE = torch.tensor([[-1.0], [2.0]])


def with_gradient(logits):
    return logits.clone().requires_grad_()


@pytest.mark.parametrize(
    ("kind", "generator", "discriminator"),
    [
        # ln(1 + e^-x) of 3, 1: 0.0485874, 0.3132617; of -1, 2: 1.3132617, 0.1269280; ln(1 + e^x) of -1, 2: 0.3132617,
        # 2.1269280.
        ("vanilla", (1.3132617 + 0.1269280) / 2, (0.0485874 + 0.3132617) / 2 + (0.3132617 + 2.1269280) / 2),
        # (-2)^2, 1^2; 2^2, 0^2; (-1)^2, 2^2.
        ("least_squares", (4 + 1) / 2, (4 + 0) / 2 + (1 + 4) / 2),
        # 1 - 3 and 1 - 1 are cut off at 0; 1 - 1, 1 + 2.
        ("hinge", -0.5, 0 + (0 + 3) / 2),
        # r - mean f: 2.5, 0.5; f - mean r: -3, 0. ln(1 + e^x) of 2.5, 0.5, 3, 0: 2.5788888, 0.9740770, 3.0485874,
        # 0.6931472; of -2.5, -0.5, -3: 0.0788888, 0.4740770, 0.0485874.
        (
            "relativistic_average",
            ((2.5788888 + 0.9740770) / 2 + (3.0485874 + 0.6931472) / 2) / 2,
            ((0.0788888 + 0.4740770) / 2 + (0.0485874 + 0.6931472) / 2) / 2,
        ),
    ],
)
def test_values_by_hand(kind, generator, discriminator):
    loss = KINDS[kind]
    assert loss.generator_loss(FAKE, REAL).item() == pytest.approx(generator, rel=1e-6)
    assert loss.discriminator_loss(REAL, FAKE).item() == pytest.approx(discriminator, rel=1e-6)


def test_relativistic_gradients_by_hand():
    loss = KINDS["relativistic_average"]
    fake, real = with_gradient(FAKE), with_gradient(REAL)
    loss.generator_loss(fake, real).backward()
    # Half of: -1/2 mean sigmoid(r - mean f), by way of the mean, and -1/2 sigmoid(mean r - f).
    # sigmoid of 2.5, 0.5: 0.9241418, 0.6224593, mean 0.7733006; of 3, 0: 0.9525741, 0.5.
    expected = [-(0.7733006 + 0.9525741) / 4, -(0.7733006 + 0.5) / 4]
    assert fake.grad.flatten().tolist() == pytest.approx(expected, rel=1e-6)
    assert real.grad is None  # the originals' logits teach the generator nothing

    fake, real = with_gradient(FAKE), with_gradient(REAL)
    loss.discriminator_loss(real, fake).backward()
    # Means are detached. sigmoid of -2.5, -0.5, -3, 0: 0.0758582, 0.3775407, 0.0474259, 0.5.
    assert real.grad.flatten().tolist() == pytest.approx([-0.0758582 / 4, -0.3775407 / 4], rel=1e-6)
    assert fake.grad.flatten().tolist() == pytest.approx([0.0474259 / 4, 0.5 / 4], rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_verdict_for_each_pixel_is_averaged_like_one_for_each_image(kind):
    loss = KINDS[kind]
    real, fake = torch.randn(2, 12, generator=torch.Generator().manual_seed(1)).mul(2)
    maps = [logits.reshape(2, 1, 2, 3) for logits in (real, fake)]
    listed = [logits.reshape(12, 1) for logits in (real, fake)]
    # Means over all pixels, of all images: not one mean for each image.
    assert loss.discriminator_loss(*maps).item() == pytest.approx(loss.discriminator_loss(*listed).item(), rel=1e-6)
    assert loss.generator_loss(maps[1], maps[0]).item() == pytest.approx(
        loss.generator_loss(listed[1], listed[0]).item(), rel=1e-6
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_taken_in_fp32(kind, dtype):
    loss = KINDS[kind]
    # Exact in both formats; their differences, squares and sums exceed FP16's 65504.
    real, fake = torch.full((4, 1), 49152.0, dtype=dtype), torch.full((4, 1), -49152.0, dtype=dtype)
    for half, full in (
        (loss.generator_loss(fake, real), loss.generator_loss(fake.double(), real.double())),
        (loss.discriminator_loss(real, fake), loss.discriminator_loss(real.double(), fake.double())),
    ):
        assert half.dtype == torch.float32
        assert math.isfinite(half.item())
        assert half.item() == pytest.approx(full.item(), rel=1e-6)


def test_small_losses_do_not_vanish():
    """A discriminator that is sure still has something to learn from: e^-30, not 0."""
    loss = KINDS["vanilla"]
    sure = loss.discriminator_loss(torch.full((1, 1), 30.0), torch.full((1, 1), -30.0))
    assert sure.item() == pytest.approx(2 * math.exp(-30), rel=1e-5)


def test_who_needs_originals():
    needed = {kind: loss.needs_real for kind, loss in KINDS.items()}
    assert needed == {"vanilla": False, "least_squares": False, "hinge": False, "relativistic_average": True}
    with pytest.raises(TrainingError, match="needs the logits of the originals too"):
        KINDS["relativistic_average"].generator_loss(FAKE)
