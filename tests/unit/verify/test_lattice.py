from sr_deploy.backends import BackendChoice
from sr_deploy.bundle import Shape, parse_profile
from sr_deploy.verify.lattice import LATTICE, SMALL_LATTICE, lattice_for

PLAIN = BackendChoice("onnxruntime", "fp32")


def test_there_are_odd_sides_and_batches():
    assert any(shape.h % 2 and shape.w % 2 for shape in LATTICE)
    assert any(shape.n > 1 for shape in LATTICE)
    assert lattice_for(PLAIN, "cpu", (), 1) == list(LATTICE)


def test_sides_are_rounded_up_to_the_multiple():
    assert lattice_for(PLAIN, "cpu", (), 4) == [Shape(1, 64, 64), Shape(1, 40, 56), Shape(2, 48, 64)]


def test_true_half_on_a_cpu_has_small_inputs():
    half = BackendChoice("torch", "fp16")
    assert lattice_for(half, "cpu", (), 1) == list(SMALL_LATTICE)
    assert lattice_for(half, "cuda:0", (), 1) == list(LATTICE)


def test_shapes_are_brought_into_the_profiles():
    profiles = [parse_profile("tile=1x40x40,1x64x64,1x128x128"), parse_profile("b=2x48x48,2x48x64,4x64x64")]
    assert lattice_for(PLAIN, "cuda:0", profiles, 1) == [Shape(1, 64, 64), Shape(1, 40, 53), Shape(2, 48, 64)]
    fixed = [parse_profile("fixed=1x6x5,1x6x5,1x6x5")]
    assert lattice_for(PLAIN, "cpu", fixed, 1) == [Shape(1, 6, 5)]
