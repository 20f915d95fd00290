import ast
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from sr_deploy.arch import registry
from sr_deploy.arch.fold import fold_for_export, merge_branches
from sr_deploy.arch.registry import (
    architecture_names,
    build_network,
    describe_cost,
    input_multiple,
    list_convolutions,
)
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.errors import InputError, ShapeError

PUBLISHED = {
    "srresnet": (ArchSpec(architecture="srresnet", scale=4, features=64, blocks=16), 1_547_350),
    "msrresnet": (ArchSpec(architecture="msrresnet", scale=4, features=64, blocks=16), 1_517_571),
    "esrgan": (ArchSpec(architecture="rrdbnet", scale=4, features=64, blocks=23, growth=32), 16_697_987),
    "anime-6b": (ArchSpec(architecture="rrdbnet", scale=4, features=64, blocks=6, growth=32), 4_467_779),
    "x2plus": (ArchSpec(architecture="rrdbnet", scale=2, features=64, blocks=23, growth=32), 16_703_171),
    "animevideo": (ArchSpec(architecture="compact", scale=4, features=64, blocks=16), 621_424),
    "general": (ArchSpec(architecture="compact", scale=4, features=64, blocks=32), 1_213_296),
    "span": (ArchSpec(architecture="span", scale=4, features=48), 426_288),
    "realplksr": (ArchSpec(architecture="realplksr", scale=4, features=64, blocks=28, partial=16), 7_389_680),
}
SMALL = [
    ArchSpec(architecture="compact", scale=4, features=6, blocks=2),
    ArchSpec(architecture="compact", scale=1, features=6, blocks=0, channels=1),
    ArchSpec(architecture="compact", scale=3, features=6, blocks=1),
    ArchSpec(architecture="msrresnet", scale=2, features=6, blocks=1, channels=1),
    ArchSpec(architecture="msrresnet", scale=3, features=6, blocks=2),
    ArchSpec(architecture="msrresnet", scale=4, features=6, blocks=2),
    ArchSpec(architecture="srresnet", scale=2, features=6, blocks=2, channels=1),
    ArchSpec(architecture="srresnet", scale=4, features=6, blocks=1),
    ArchSpec(architecture="rrdbnet", scale=4, features=6, blocks=1, growth=4),
    ArchSpec(architecture="rrdbnet", scale=2, features=6, blocks=1, growth=4),
    ArchSpec(architecture="rrdbnet", scale=1, features=6, blocks=1, growth=4, channels=1),
    ArchSpec(architecture="rrdbnet", scale=2, features=6, blocks=1, growth=4, unshuffle=1),
    ArchSpec(architecture="rrdbnet", scale=8, features=6, blocks=1, growth=4),
    ArchSpec(architecture="rrdbnet", scale=3, features=6, blocks=1, growth=4),
    ArchSpec(architecture="span", scale=2, features=6, blocks=2),
    ArchSpec(architecture="span", scale=4, features=6, blocks=3, norm=True, channels=1),
    ArchSpec(architecture="span", scale=1, features=6, blocks=2, norm=True, img_range=1, branches=1),
    ArchSpec(architecture="realplksr", scale=2, features=8, blocks=1, kernel=5, partial=2),
    ArchSpec(architecture="realplksr", scale=4, features=6, blocks=2, kernel=3, partial=6, norm="layer", channels=1),
    ArchSpec(architecture="realplksr", scale=1, features=8, blocks=1, kernel=7, partial=4, attention=False),
    ArchSpec(architecture="realplksr", scale=3, features=8, blocks=1, kernel=5, partial=2, dysample=True),
    ArchSpec(architecture="realplksr", scale=2, features=8, blocks=1, kernel=5, partial=2, dysample=True, channels=1),
]


def title(spec):
    return f"{spec.architecture}-x{spec.scale}-{spec.channels}" if isinstance(spec, ArchSpec) else str(spec)


def randomize(network):
    """Weights and statistics that no shortcut of the code could guess."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(noise + 0.5 if "running_var" in name else (noise - 0.5) * 0.4)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_of_the_published_networks(name):
    spec, parameters = PUBLISHED[name]
    assert describe_cost(spec).parameters == parameters


@pytest.mark.parametrize(
    ("name", "flops"), [("esrgan", 35.9e6), ("anime-6b", 11.4e6), ("animevideo", 1.24e6), ("x2plus", 8.97e6)]
)
def test_cost_per_input_pixel(name, flops):
    assert describe_cost(PUBLISHED[name][0]).flops_per_input_pixel == pytest.approx(flops, rel=0.004)


@pytest.mark.parametrize(("name", "radius"), [("animevideo", 18), ("general", 34)])
def test_radius_of_a_chain_is_the_number_of_its_convolutions(name, radius):
    assert describe_cost(PUBLISHED[name][0]).receptive_radius == radius


def test_cost_of_a_compact_network_by_hand():
    spec = ArchSpec(architecture="compact", scale=2, features=5, blocks=1)
    assert describe_cost(spec).flops_per_input_pixel == 2 * 9 * (3 * 5 + 5 * 5 + 5 * 12)


def test_cost_of_an_unshuffled_network_by_hand():
    spec = ArchSpec(architecture="rrdbnet", scale=2, features=4, blocks=1, growth=2)
    dense = sum((4 + 2 * n) * (2 if n < 4 else 4) for n in range(5))
    multiply_adds = 9 * (
        Fraction(1, 4) * (12 * 4 + 3 * dense + 4 * 4)  # at half the input's sides
        + 4 * 4  # first upsample: the input's size
        + 4 * (4 * 4 + 4 * 4 + 4 * 3)  # twice the input's sides
    )
    assert describe_cost(spec).flops_per_input_pixel == float(2 * multiply_adds)


@pytest.mark.parametrize("spec", SMALL, ids=title)
def test_output_has_the_scale_the_spec_says(spec):
    multiple = input_multiple(spec)
    lr = torch.rand(2, spec.channels, 3 * multiple, 5 * multiple)
    sr = build_network(spec).eval()(lr)
    assert sr.shape == (2, spec.channels, 3 * multiple * spec.scale, 5 * multiple * spec.scale)
    assert sr.dtype == torch.float32


@pytest.mark.parametrize("spec", SMALL, ids=title)
def test_convolutions_are_those_of_the_network(spec):
    network = merge_branches(build_network(spec))
    built = [
        (layer.in_channels, layer.out_channels, layer.kernel_size[0])
        for layer in network.modules()
        if isinstance(layer, torch.nn.Conv2d)
    ]
    listed = [(conv.in_channels, conv.out_channels, conv.kernel) for conv in list_convolutions(spec)]
    assert listed == built


@pytest.mark.parametrize("spec", SMALL, ids=title)
def test_folded_network_computes_the_same(spec):
    network = randomize(build_network(spec))
    multiple = input_multiple(spec)
    lr = torch.rand(2, spec.channels, 7 * multiple, 5 * multiple)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    folded = fold_for_export(network)
    expected, got = network(lr), folded(lr)
    assert float((expected - got).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in folded.modules())
    # The original is as it was.
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())


@pytest.mark.parametrize(("scale", "kernel", "stride"), [(2, 6, 2), (1, 12, 4)])
def test_unshuffle_becomes_one_strided_convolution(scale, kernel, stride):
    folded = fold_for_export(
        build_network(ArchSpec(architecture="rrdbnet", scale=scale, features=6, blocks=1, growth=4))
    )
    assert folded.conv_first.kernel_size == (kernel, kernel)
    assert folded.conv_first.stride == (stride, stride)
    assert folded.conv_first.in_channels == 3


@pytest.mark.parametrize("spec", [SMALL[0], SMALL[5], SMALL[6], SMALL[9], SMALL[10]], ids=title)
def test_torch_export_takes_dynamic_shapes(spec):
    network = randomize(build_network(spec))
    dynamic = torch.export.Dim.DYNAMIC
    program = torch.export.export(
        network, (torch.rand(2, spec.channels, 12, 16),), dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},)
    )
    lr = torch.rand(3, spec.channels, 8, 20)
    assert torch.allclose(program.module()(lr), network(lr), atol=1e-5)


@pytest.mark.parametrize(("scale", "multiple"), [(2, 2), (1, 4)])
def test_unshuffled_networks_refuse_sides_that_do_not_divide(scale, multiple):
    spec = ArchSpec(architecture="rrdbnet", scale=scale, features=6, blocks=1, growth=4)
    assert input_multiple(spec) == multiple
    with pytest.raises(ShapeError, match=f"multiples of {multiple}, not 8x9; pad the image"):
        build_network(spec)(torch.rand(1, 3, 8, 9))


def test_compact_adds_the_nearest_upsample():
    network = build_network(SMALL[0])
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    lr = torch.rand(1, 3, 4, 5)
    assert torch.equal(network(lr), lr.repeat_interleave(4, 2).repeat_interleave(4, 3))


def test_msrresnet_adds_the_bilinear_upsample():
    network = build_network(SMALL[4])
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    lr = torch.rand(1, 3, 4, 5)
    expected = F.interpolate(lr, size=(12, 15), mode="bilinear", align_corners=False)
    assert torch.allclose(network(lr), expected)


def test_dense_block_reads_all_before_it_and_adds_a_fifth():
    block = build_network(SMALL[8]).body[0].rdb1
    randomize(block)
    lr = torch.rand(1, 6, 5, 5)
    seen = [lr]
    for conv in (block.conv1, block.conv2, block.conv3, block.conv4):
        value = conv(torch.cat(seen, 1))
        seen.append(torch.where(value > 0, value, value * 0.2))
    assert torch.allclose(block(lr), lr + 0.2 * block.conv5(torch.cat(seen, 1)), atol=1e-6)


def test_dense_convolutions_start_at_a_tenth_of_kaiming():
    torch.manual_seed(0)
    network = build_network(PUBLISHED["anime-6b"][0])
    conv = network.body[0].rdb1.conv5
    fan_in = 9 * (64 + 4 * 32)
    assert float(conv.weight.detach().std()) == pytest.approx(0.1 * (2 / fan_in) ** 0.5, rel=0.02)
    assert float(conv.bias.detach().abs().max()) == 0
    # Outside the dense blocks: torch's own start, uniform within 1 / sqrt(fan_in).
    bound = (9 * 64) ** -0.5
    assert float(network.conv_hr.weight.detach().abs().max()) == pytest.approx(bound, rel=0.01)


def test_srresnet_has_one_prelu_slope_per_activation():
    network = build_network(PUBLISHED["srresnet"][0])
    slopes = [layer.num_parameters for layer in network.modules() if isinstance(layer, torch.nn.PReLU)]
    assert slopes == [1] * (1 + 16 + 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architecture": "edsr"},
            "unknown architecture 'edsr'; known: compact, msrresnet, realplksr, rrdbnet, span, srresnet",
        ),
        ({"architecture": "msrresnet", "scale": 8}, "msrresnet enlarges by 2, 3 or 4, not by 8"),
        ({"architecture": "srresnet", "scale": 3}, "srresnet enlarges by powers of two"),
        ({"architecture": "rrdbnet", "scale": 6, "growth": 4}, "rrdbnet enlarges by 3 and by powers of two"),
        ({"architecture": "rrdbnet"}, "network rrdbnet: 'growth' is missing"),
        ({"growth": 4}, "unknown key 'growth'; known there: .*, features, blocks"),
        ({"features": 8193}, "'features': Input should be less than or equal to 8192"),
        ({"channels": 4}, "1 or 3 channels, not 4"),
    ],
)
def test_what_cannot_be_built_is_named(changes, message):
    fields = {"architecture": "compact", "scale": 4, "features": 6, "blocks": 1} | changes
    with pytest.raises(InputError, match=message):
        build_network(ArchSpec(**fields))


def test_no_other_module_names_an_architecture():
    package = Path(registry.__file__).parents[1]
    found = []
    for path in sorted(package.rglob("*.py")):
        if path.parent == package / "arch/networks":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and node.value in architecture_names():
                found.append(f"{path.relative_to(package)}:{node.lineno}: {node.value}")
    assert found == []
