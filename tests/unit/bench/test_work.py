import pytest

from sr_deploy.arch.registry import describe_cost
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.bench.choices import parse_candidate
from sr_deploy.bench.work import Work, describe_roofline, find_work
from sr_deploy.bundle import Shape
from sr_deploy.measure.peak import Peaks
from sr_deploy.model import open_model

SHAPE = Shape(2, 24, 16)
PIXELS = 2 * 24 * 16
PEAKS = Peaks(device="cpu", threads=1, matrix_gflops={"fp32": 100, "int8": 400}, copy_gb_per_second=10)
# Of `compact-x4` with 8 features and 2 blocks, by hand: convolutions 3x3 from 3, 8, 8 to 8, 8, 48 channels.
FLOPS = 2 * 9 * (3 * 8 + 8 * 8 + 8 * 8 + 8 * 48)
PARAMETERS = 9 * (3 * 8 + 8 * 8 + 8 * 8 + 8 * 48) + (8 + 8 + 8 + 48) + 3 * 8
END_BYTES = PIXELS * 3 * (1 + 16) * 4


@pytest.mark.parametrize(
    ("spec", "megaflops"),
    [
        (ArchSpec(architecture="rrdbnet", scale=4, features=64, blocks=23, growth=32), 35.9),
        (ArchSpec(architecture="rrdbnet", scale=4, features=64, blocks=6, growth=32), 11.4),
        (ArchSpec(architecture="compact", scale=4, features=64, blocks=16), 1.24),
    ],
)
def test_published_networks_cost_what_is_counted_by_hand(spec, megaflops):
    assert describe_cost(spec).flops_per_input_pixel / 1e6 == pytest.approx(megaflops, rel=5e-3)


@pytest.mark.parametrize(
    ("name", "precision", "bytes_of_a_weight"),
    [("torch:fp32", "fp32", 4), ("torch:bf16+compile", "bf16", 2), ("openvino:fp32", "fp32", 4)],
)
def test_work_is_counted_in_the_precision_that_computes(bundle, name, precision, bytes_of_a_weight):
    work = find_work(open_model(bundle.path), parse_candidate(name), SHAPE, on_cpu=True)
    assert dict(work.flops) == {precision: FLOPS * PIXELS}
    assert work.least_bytes == pytest.approx(END_BYTES + PARAMETERS * bytes_of_a_weight, abs=100)  # sizes of Resize
    assert work.layer_bytes > work.least_bytes


def test_what_a_cpu_computes_in_fp32_counts_as_that(bundle):
    model, choice = open_model(bundle.path), parse_candidate("onnxruntime:fp16")
    assert set(find_work(model, choice, SHAPE, on_cpu=True).flops) == {"fp32"}
    assert set(find_work(model, choice, SHAPE, on_cpu=False).flops) == {"fp16"}


def test_a_checkpoint_alone_is_counted_by_its_architecture(bundle):
    work = find_work(open_model(bundle.reference), parse_candidate("torch:bf16"), SHAPE, on_cpu=True)
    assert work == Work({"bf16": FLOPS * PIXELS}, END_BYTES + 2 * PARAMETERS, None)


@pytest.mark.parametrize(
    ("flops", "least_bytes", "seconds", "limit", "share"),
    [
        ({"fp32": 1e9}, 10**6, 0.02, "arithmetic", 0.5),  # 10 ms at 100 GFLOP/s
        ({"fp32": 1e9, "int8": 4e9}, 10**6, 0.04, "arithmetic", 0.5),  # 10 ms and 10 ms
        ({"fp32": 1e8}, 10**8, 0.04, "memory", 0.25),  # 1 ms of arithmetic, 10 ms of copying
        ({"bf16": 1e9}, 10**6, 0.02, None, None),  # no such peak
    ],
)
def test_the_share_is_the_least_time_over_the_time_taken(flops, least_bytes, seconds, limit, share):
    roofline = describe_roofline(Work(flops, least_bytes, None), seconds, PEAKS)
    assert (roofline.limit, roofline.share) == (limit, None if share is None else pytest.approx(share))
    assert roofline.gflops_per_second == pytest.approx(sum(flops.values()) / seconds / 1e9)
    assert sum(roofline.precision_share.values()) == pytest.approx(1)
