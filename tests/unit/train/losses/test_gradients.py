"""Every loss, with each of the options that its module gives as examples, alone: its gradient is right, and teaches."""

from __future__ import annotations

import itertools

import pytest
import torch

from sr_deploy.arch.discriminators import build_discriminator
from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec, DiscriminatorSpec
from sr_deploy.train.losses.registry import LossInputs, TeacherOutput, get_loss, loss_names

CPU = torch.device("cpu")
GENERATOR = ArchSpec(architecture="msrresnet", scale=4, features=8, blocks=1)
DISCRIMINATORS = [
    DiscriminatorSpec(architecture="srgan", features=4, patch_size=32),
    DiscriminatorSpec(architecture="vgg128", features=4, patch_size=32),
    DiscriminatorSpec(architecture="vgg256", features=4, patch_size=64),
    DiscriminatorSpec(architecture="unet", features=4, spectral_norm=True),
    DiscriminatorSpec(architecture="unet", features=4),
]


def list_cases():
    """(name, options) of each loss: fields with examples take each of them, the others keep their defaults."""
    for name in loss_names():
        fields = get_loss(name).options.model_fields
        tried = {key: field.examples for key, field in fields.items() if field.examples}
        assert {key for key, field in fields.items() if field.is_required()} <= {"weight", *tried}, (
            f"loss {name}: give `examples` to each field without a default"
        )
        for values in itertools.product(*tried.values()):
            yield pytest.param(name, dict(zip(tried, values, strict=True)), id="-".join((name, *map(str, values))))


CASES = list(list_cases())


@pytest.fixture(autouse=True)
def _features(tmp_path, monkeypatch, vgg19):
    """A small VGG19 lies where torch keeps what it downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = tmp_path / "hub" / "checkpoints" / vgg19.name
    place.parent.mkdir(parents=True)
    place.symlink_to(vgg19)


def build(name, options):
    loss = get_loss(name)
    return loss.build(loss.options.model_validate({"weight": 1.0, **options}), CPU)


def make_inputs(spec: DiscriminatorSpec, sr=None):
    """(generator, discriminator, inputs): with `sr`, or with what the generator gives."""
    torch.manual_seed(0)
    side = spec.patch_size or 32
    generator, discriminator = build_network(GENERATOR).train(), build_discriminator(spec).train()
    lr, hr, target = torch.rand(2, 3, side // 4, side // 4), *torch.rand(2, 2, 3, side, side)
    sr = generator(lr) if sr is None else sr
    # As a generator whose features are its picture: each picks what it can be held to.
    expected = torch.nn.functional.interpolate(lr, scale_factor=4)
    taught = TeacherOutput(expected, (sr[:, :, ::2, ::2], expected[:, :1]))
    return (
        generator,
        discriminator,
        LossInputs(lr, sr, target, hr, lambda images: discriminator(images.float()), lambda _: taught),
    )


@pytest.mark.parametrize(("name", "options"), CASES)
def test_gradient_is_the_numerical_one(name, options):
    criterion = build(name, options)
    random = torch.Generator().manual_seed(3)
    start = torch.rand(2, 3, 32, 32, generator=random)

    def measure(sr):
        _, discriminator, inputs = make_inputs(DISCRIMINATORS[-1], sr)
        discriminator.requires_grad_(False)
        return criterion(inputs)

    sr = start.clone().requires_grad_()
    measure(sr).backward()
    direction, step = sr.grad.sign(), 1e-3  # the steepest one: across it, rounding would hide the change
    change = (measure(start + step * direction).double() - measure(start - step * direction).double()) / (2 * step)
    assert (sr.grad * direction).sum().item() == pytest.approx(change.item(), rel=0.03)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_teaches_the_generator_and_nobody_else(name, options):
    generator, discriminator, inputs = make_inputs(DISCRIMINATORS[-1])
    discriminator.requires_grad_(False)
    loss = build(name, options)(inputs)
    assert loss.shape == ()
    assert torch.isfinite(loss)
    loss.backward()
    for part in ("conv_first.weight", "body.0.conv1.weight", "conv_last.weight"):
        gradient = generator.get_parameter(part).grad
        assert gradient is not None, part
        assert torch.isfinite(gradient).all(), part
        assert gradient.abs().max() > 0, part
    assert all(one.grad is None for one in discriminator.parameters())


@pytest.mark.parametrize(("name", "options"), CASES)
def test_half_precision_output_gives_an_fp32_loss(name, options):
    criterion = build(name, options)
    sr = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3)).half()
    half, full = (criterion(make_inputs(DISCRIMINATORS[-1], one)[2]) for one in (sr, sr.float()))
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(full.item(), rel=1e-5)


@pytest.mark.parametrize("spec", DISCRIMINATORS, ids=lambda spec: spec.title().replace(",", ""))
@pytest.mark.parametrize(
    ("name", "options"), [case for case in CASES if "discriminator" in get_loss(case.values[0]).needs]
)
def test_both_networks_of_a_pair_learn(name, options, spec):
    generator, discriminator, inputs = make_inputs(spec)
    criterion = build(name, options)
    criterion.discriminator_loss(discriminator(inputs.hr_NCHW), discriminator(inputs.sr_NCHW.detach())).backward()
    assert all(torch.isfinite(one.grad).all() for one in discriminator.parameters())
    assert all(one.grad is None for one in generator.parameters())
    first = next(discriminator.parameters())
    assert first.grad.abs().max() > 0

    before = first.grad.clone()
    discriminator.requires_grad_(False)
    criterion(inputs).backward()
    assert torch.equal(first.grad, before)  # the generator's step leaves the discriminator alone
    assert generator.get_parameter("conv_first.weight").grad.abs().max() > 0
