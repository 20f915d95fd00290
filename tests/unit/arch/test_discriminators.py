from __future__ import annotations

import copy
import math
import re

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F

from sr_deploy.arch.discriminators import build_discriminator, read_discriminator, save_discriminator
from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec, DiscriminatorSpec
from sr_deploy.arch.weights import read_checkpoint, save_generator
from sr_deploy.errors import DiscriminatorFoundError, InputError, ShapeError

SRGAN = DiscriminatorSpec(architecture="srgan", features=4, patch_size=32)
VGG128 = DiscriminatorSpec(architecture="vgg128", features=4, patch_size=64)
VGG256 = DiscriminatorSpec(architecture="vgg256", features=3, patch_size=64, channels=1)
UNET = DiscriminatorSpec(architecture="unet", features=4, spectral_norm=True)
PLAIN_UNET = DiscriminatorSpec(architecture="unet", features=4)
ALL = [SRGAN, VGG128, VGG256, UNET, PLAIN_UNET]
by_title = pytest.mark.parametrize("spec", ALL, ids=lambda spec: re.sub(r"\W+", "-", spec.title()))


def make(spec, seed=0):
    """A discriminator with lively weights, biases and statistics: verdicts that differ from image to image."""
    torch.manual_seed(seed)
    network = build_discriminator(spec)
    for name, tensor in network.state_dict().items():
        if tensor.ndim > 1 and not spec.spectral_norm:
            nn.init.kaiming_normal_(tensor, nonlinearity="relu")
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif name.endswith(("bias", "running_mean")):
            tensor.uniform_(-0.1, 0.1)
    return network


def images_for(spec, n=2):
    side = spec.patch_size or 32
    return torch.rand(n, spec.channels, side, side, generator=torch.Generator().manual_seed(5))


def count(spec):
    with torch.device("cpu" if spec.spectral_norm else "meta"):
        return sum(parameter.numel() for parameter in build_discriminator(spec).parameters())


def test_parameters_of_srgan_by_hand():
    convolutions = 9 * (3 * 64 + 64 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 256 * 256 + 256 * 512 + 512 * 512)
    norms = 2 * (64 + 128 + 128 + 256 + 256 + 512 + 512)
    dense = (512 * 6 * 6 + 1) * 1024 + 1024 + 1
    assert convolutions + 64 + norms + dense == 23_563_649
    assert count(DiscriminatorSpec(architecture="srgan", patch_size=96)) == 23_563_649


def test_parameters_of_vgg_style_by_hand():
    same = 9 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512 * 512)  # 3 x 3
    halving = 16 * (64**2 + 128**2 + 256**2 + 512**2 + 512**2)  # 4 x 4
    norms = 2 * (64 + 2 * 128 + 2 * 256 + 4 * 512)
    dense = (512 * 4 * 4 + 1) * 100 + 100 + 1
    assert same + 64 + halving + norms + dense == 14_499_401
    assert count(DiscriminatorSpec(architecture="vgg128", patch_size=128)) == 14_499_401
    one_more = (9 + 16) * 512**2 + 2 * 2 * 512
    assert count(DiscriminatorSpec(architecture="vgg256", patch_size=256)) == 14_499_401 + one_more == 21_055_049


@pytest.mark.parametrize("spectral_norm", [True, False])
def test_parameters_of_unet_by_hand(spectral_norm):
    down = 16 * (64 * 128 + 128 * 256 + 256 * 512)
    up = 9 * (512 * 256 + 256 * 128 + 128 * 64)
    ends = (9 * 3 + 1) * 64 + 2 * 9 * 64 * 64 + 9 * 64 + 1
    assert down + up + ends == 4_376_897
    assert count(DiscriminatorSpec(architecture="unet", spectral_norm=spectral_norm)) == 4_376_897


def test_keys_of_published_files():
    """Those of BasicSR's VGGStyleDiscriminator and UNetDiscriminatorSN, without the counters of normalizations."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    vgg = {"conv0_0.weight", "conv0_0.bias", "conv0_1.weight", *(f"bn0_1.{name}" for name in norm)}
    for stage in range(1, 5):
        vgg |= {f"conv{stage}_{number}.weight" for number in (0, 1)}
        vgg |= {f"bn{stage}_{number}.{name}" for number in (0, 1) for name in norm}
    vgg |= {f"linear{number}.{name}" for number in (1, 2) for name in ("weight", "bias")}
    assert set(make(VGG128).state_dict()) == vgg
    unet = {f"conv{number}.weight" for number in range(10)} | {"conv0.bias", "conv9.bias"}
    assert set(make(PLAIN_UNET).state_dict()) == unet


def lrelu(x):
    return torch.where(x > 0, x, 0.2 * x)


def normalize(x, state, name):
    """Batch normalization in evaluation mode."""
    mean, var, weight, bias = (
        state[f"{name}.{key}"].view(1, -1, 1, 1) for key in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias


def judge_srgan(state, x):
    x = lrelu(F.conv2d(x, state["conv0.weight"], state["conv0.bias"], padding=1))
    for number, stride in enumerate((2, 1, 2, 1, 2, 1, 2), 1):
        x = F.conv2d(x, state[f"conv{number}.weight"], stride=stride, padding=1)
        x = lrelu(normalize(x, state, f"bn{number}"))
    return judge_dense(state, x)


def judge_vgg(state, x, stages):
    for stage in range(stages):
        x = F.conv2d(x, state[f"conv{stage}_0.weight"], state.get(f"conv{stage}_0.bias"), padding=1)
        x = lrelu(normalize(x, state, f"bn{stage}_0") if stage else x)
        x = F.conv2d(x, state[f"conv{stage}_1.weight"], stride=2, padding=1)
        x = lrelu(normalize(x, state, f"bn{stage}_1"))
    return judge_dense(state, x)


def judge_dense(state, x):
    hidden = lrelu(x.flatten(1) @ state["linear1.weight"].T + state["linear1.bias"])
    return hidden @ state["linear2.weight"].T + state["linear2.bias"]


def judge_unet(state, x):
    def conv(number, x, stride=1):
        return lrelu(F.conv2d(x, state[f"conv{number}.weight"], state.get(f"conv{number}.bias"), stride, 1))

    def double(x):
        return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)(x)

    skips = [conv(0, x)]
    for number in (1, 2, 3):
        skips.append(conv(number, skips[-1], 2))
    x = skips.pop()
    for number in (4, 5, 6):
        x = conv(number, double(x)) + skips.pop()
    x = conv(8, conv(7, x))
    return F.conv2d(x, state["conv9.weight"], state["conv9.bias"], padding=1)


@pytest.mark.parametrize(
    ("spec", "judge"),
    [
        (SRGAN, judge_srgan),
        (VGG128, lambda state, x: judge_vgg(state, x, 5)),
        (VGG256, lambda state, x: judge_vgg(state, x, 6)),
        (PLAIN_UNET, judge_unet),
    ],
    ids=["srgan", "vgg128", "vgg256", "unet"],
)
@torch.no_grad()
def test_verdicts_are_those_of_a_plain_computation(spec, judge):
    network = make(spec).eval()
    images = images_for(spec)
    verdicts = network(images)
    assert verdicts.shape == ((2, 1, 32, 32) if spec.architecture == "unet" else (2, 1))
    assert torch.allclose(verdicts, judge(network.state_dict(), images), rtol=1e-4, atol=1e-5)
    assert verdicts.std() > 1e-3


@torch.no_grad()
def test_unet_takes_other_sizes_and_normalizes_its_weights():
    network = make(UNET).eval()
    state = {"conv0.bias": network.conv0.bias, "conv9.bias": network.conv9.bias}
    for number in range(10):
        weight = network.state_dict().get(f"conv{number}.parametrizations.weight.original")
        if weight is None:
            state[f"conv{number}.weight"] = network.get_parameter(f"conv{number}.weight")
            assert number in (0, 9)
            continue
        u, v = (network.get_buffer(f"conv{number}.parametrizations.weight.0.{name}") for name in ("_u", "_v"))
        state[f"conv{number}.weight"] = weight / (u @ weight.flatten(1) @ v)
    images = torch.rand(1, 3, 24, 40)
    assert torch.allclose(network(images), judge_unet(state, images), atol=1e-5)


def test_largest_singular_value_becomes_one():
    network = make(UNET).train()
    images = images_for(UNET)
    for _ in range(60):
        network(images)
    for number in range(1, 9):
        weight = network.get_submodule(f"conv{number}").weight.detach().flatten(1)
        assert torch.linalg.svdvals(weight)[0].item() == pytest.approx(1, abs=1e-3), number
    raw = network.get_parameter("conv1.parametrizations.weight.original").detach().flatten(1)
    assert torch.linalg.svdvals(raw)[0].item() != pytest.approx(1, abs=0.02)


def test_evaluation_leaves_the_state_alone_and_training_does_not():
    network = make(UNET)
    before = copy.deepcopy(network.state_dict())
    network.eval()(images_for(UNET))
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    network.train()(images_for(UNET))
    changed = {key.rpartition(".")[2] for key, tensor in network.state_dict().items() if not tensor.equal(before[key])}
    assert changed == {"_u", "_v"}


@by_title
def test_saved_and_read_it_goes_on_bit_for_bit(tmp_path, spec):
    def step(network, images):
        loss = network(images).square().mean()
        network.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.sub_(1e-3 * parameter.grad)
        return loss.item()

    network, images = make(spec).train(), images_for(spec)
    step(network, images)
    save_discriminator(tmp_path / "d.safetensors", network.state_dict(), spec, {"step": "1"})
    read_spec, state = read_discriminator(tmp_path / "d.safetensors")
    assert read_spec == spec
    other = make(spec, seed=1).train()
    other.load_state_dict(state)
    for _ in range(3):
        loss = step(network, images)
        assert math.isfinite(loss)
        assert step(other, images) == loss
    assert all(torch.equal(tensor, network.state_dict()[key]) for key, tensor in other.state_dict().items())
    with safe_open(tmp_path / "d.safetensors", framework="np") as file:
        assert file.metadata()["step"] == "1"
        assert DiscriminatorSpec.model_validate_json(file.metadata()["discriminator"]) == spec


def make_legacy(spec):
    """The plain network with torch's older spectral norm on its inner convolutions, as published files were made."""
    network = make(spec)
    for number in range(1, 9):
        torch.nn.utils.spectral_norm(network.get_submodule(f"conv{number}"))
    network.train()
    for _ in range(3):
        network(images_for(spec))
    return network.eval()


def test_legacy_spectral_norm_gives_the_same_verdicts(tmp_path):
    legacy = make_legacy(PLAIN_UNET)
    assert {"conv1.weight_orig", "conv1.weight_u", "conv1.weight_v"} <= set(legacy.state_dict())
    torch.save({"params": {f"module.{key}": one for key, one in legacy.state_dict().items()}}, tmp_path / "d.pth")
    spec, state = read_discriminator(tmp_path / "d.pth")
    assert spec == UNET
    network = build_discriminator(spec).eval()
    network.load_state_dict(state)
    images = images_for(UNET)
    with torch.no_grad():
        expected = legacy(images)
        assert torch.allclose(network(images), expected, rtol=1e-5, atol=1e-6)
        # And both arrive at the same norms.
        for one in (legacy, network):
            for _ in range(100):
                one.train()(images[:1, :, :8, :8])
            one.eval()
        assert torch.allclose(network(images), legacy(images), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(network(images), expected, rtol=1e-4, atol=1e-5)


@by_title
def test_published_layouts_are_recognized_from_keys_and_shapes(tmp_path, spec):
    network = make(spec)
    torch.save({"params": network.state_dict()}, tmp_path / "d.pth")
    read_spec, state = read_discriminator(tmp_path / "d.pth")
    assert read_spec == spec
    assert set(state) == set(network.state_dict())
    assert all(torch.equal(tensor, network.state_dict()[key]) for key, tensor in state.items())


def test_vgg_for_patches_of_96(tmp_path):
    """BasicSR's network has that size too: three by three positions reach the dense layers."""
    spec = DiscriminatorSpec(architecture="vgg128", features=2, patch_size=96)
    state = make(spec).state_dict()
    assert state["linear1.weight"].shape == (100, 16 * 3 * 3)
    torch.save(state, tmp_path / "d.pth")
    assert read_discriminator(tmp_path / "d.pth")[0] == spec


@pytest.mark.parametrize(
    ("architecture", "patch_size", "multiple"),
    [("srgan", 40, 16), ("vgg128", 48, 32), ("vgg256", 96, 64), ("unet", 20, 8)],
)
def test_patch_sizes_that_do_not_fit(architecture, patch_size, multiple):
    with pytest.raises(InputError, match=f"a multiple of {multiple}, not {patch_size}"):
        build_discriminator(DiscriminatorSpec(architecture=architecture, features=2, patch_size=patch_size))


def test_values_that_make_no_discriminator():
    with pytest.raises(InputError, match="vgg128 needs patch_size"):
        build_discriminator(DiscriminatorSpec(architecture="vgg128"))
    with pytest.raises(InputError, match="srgan has no spectral normalization"):
        build_discriminator(DiscriminatorSpec(architecture="srgan", patch_size=96, spectral_norm=True))


@pytest.mark.parametrize(
    ("spec", "shape", "words"),
    [
        (SRGAN, (1, 3, 48, 48), "patches of 32x32 pixels, not 48x48"),
        (VGG128, (1, 3, 64, 32), "patches of 64x64 pixels, not 64x32"),
        (UNET, (1, 3, 24, 20), "sides that are multiples of 8, not 24x20"),
    ],
)
def test_images_of_another_size(spec, shape, words):
    with pytest.raises(ShapeError, match=words):
        make(spec)(torch.zeros(shape))


@pytest.fixture
def read():
    return read_discriminator


@pytest.mark.parametrize(
    ("spec", "changes", "words"),
    [
        (VGG128, {"conv2_1.weight": None}, ["'conv2_1.weight' is missing for vgg128, 4 features, patches of 64, RGB"]),
        (VGG128, {"linear1.weight": (100, 33)}, ["'linear1.weight' reads 33 values, no square map of 32 channels"]),
        (VGG128, {"conv6_0.weight": (1, 1, 3, 3)}, ["with 7 stages; it must have 5 or 6"]),
        (SRGAN, {"bn3.weight": (9,)}, ["'bn3.weight' has shape (9,)", "it must have (8,)"]),
        (UNET, {"conv3.parametrizations.weight.0._v": None}, ["'conv3.parametrizations.weight.0._v' is missing"]),
        (PLAIN_UNET, {"conv4.weight": (16, 16, 3, 3)}, ["'conv4.weight' has shape (16, 16, 3, 3)"]),
        (PLAIN_UNET, {"extra": (2,)}, ["'extra' has no place for unet, 4 features, no spectral norm, RGB"]),
        (PLAIN_UNET, {"conv9.weight": None}, ["unknown layout", "known discriminators: conv0 to conv9"]),
        (PLAIN_UNET, {"conv0.weight": (4, 0, 3, 3)}, ["its shapes make no discriminator: channels would be 0"]),
    ],
)
def test_files_that_contradict_themselves(tmp_path, spec, changes, words, *, change_shapes, assert_refused):
    state = change_shapes(make(spec).state_dict(), changes)
    torch.save(state, tmp_path / "d.pth")
    assert_refused(tmp_path / "d.pth", *words)


def test_diverged_weights_are_refused(tmp_path, assert_refused):
    state = make(UNET).state_dict()
    state["conv2.parametrizations.weight.original"][0, 0, 0, 0] = float("inf")
    save_discriminator(tmp_path / "d.safetensors", state, UNET)
    assert_refused(tmp_path / "d.safetensors", "holds NaN or infinity")


def test_generators_and_discriminators_are_not_taken_for_each_other(tmp_path, assert_refused):
    spec = ArchSpec(architecture="compact", scale=2, features=4, blocks=1)
    state = build_network(spec).state_dict()
    save_generator(tmp_path / "ours.safetensors", state, spec)
    assert_refused(tmp_path / "ours.safetensors", "holds no discriminator but a generator; give discriminator.safe")
    torch.save(state, tmp_path / "published.pth")
    assert_refused(tmp_path / "published.pth", "looks like a generator (SRVGGNetCompact", "give the discriminator's")
    torch.save({"optimizer": {}, "epoch": 3}, tmp_path / "state.pth")
    assert_refused(tmp_path / "state.pth", "training state without the discriminator's weights")

    save_discriminator(tmp_path / "d.safetensors", make(UNET).state_dict(), UNET)
    with pytest.raises(DiscriminatorFoundError, match="holds no generator but a discriminator; give gen"):
        read_checkpoint(tmp_path / "d.safetensors")
    for network in (make(VGG128), make(SRGAN), make(UNET), make(PLAIN_UNET), make_legacy(PLAIN_UNET)):
        torch.save(network.state_dict(), tmp_path / "d.pth")
        with pytest.raises(DiscriminatorFoundError, match=r"d\.pth: looks like a discriminator.*give the generator's"):
            read_checkpoint(tmp_path / "d.pth")


def test_foreign_metadata(tmp_path, assert_refused):
    path = tmp_path / "d.safetensors"
    save_discriminator(path, make(UNET).state_dict(), UNET)
    content = path.read_bytes()
    assert content.count(b'\\"unet\\"') == 1
    path.write_bytes(content.replace(b'\\"unet\\"', b'\\"none\\"'))
    assert_refused(path, "its metadata describe no discriminator known here (architecture:")
    path.write_bytes(content.replace(b'\\"features\\":4', b'\\"features\\":5'))
    assert_refused(path, "'conv0.weight' has shape (4, 3, 3, 3); for unet, 5 features, spectral norm, RGB it must")
