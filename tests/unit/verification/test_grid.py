from collections import Counter

from sr_deploy.backends import BackendChoice
from sr_deploy.bundle import Shape, parse_profile
from sr_deploy.verification.contents import CONTENTS, VARIED
from sr_deploy.verification.grid import EXTRA, PURE_SHAPE, SHAPES, SLOW_SHAPES, STRIPS, Cost, plan_grid

PLAIN = BackendChoice("onnxruntime", "fp32")
HALF = BackendChoice("torch", "fp16")
TILE = parse_profile("tile=1x32x32,1x256x256,2x512x512")


def shapes_of(grid):
    return list(dict.fromkeys(point.shape for point in grid.points))


def test_there_are_primes_strips_and_batches():
    assert Shape(1, 37, 53) in SHAPES
    assert any(shape.h == 1 for shape in SHAPES)
    assert any(shape.w == 1 for shape in SHAPES)
    assert any(shape.n > 1 and shape.h % 2 and shape.w % 2 for shape in SHAPES)


def test_strips_go_beyond_what_the_deployment_is_for():
    """What is wrong beyond some height, width or batch is as wrong in a strip, which costs next to nothing."""
    assert max(shape.w for shape in STRIPS if shape.h == 1) > 1024
    assert max(shape.h for shape in STRIPS if shape.w == 1) > 1024
    assert max(shape.n for shape in STRIPS) > 8
    assert max(shape.n * shape.h * shape.w for shape in STRIPS) < 2000
    large = parse_profile("large=1x32x32,1x64x64,16x1080x1920")
    shapes = shapes_of(plan_grid(PLAIN, "cpu", (), 1, deployed=[large]))
    assert {Shape(1, 1, 1920), Shape(1, 1080, 1), Shape(16, 8, 8)} < set(shapes)


def test_without_a_cost_each_shape_and_each_content_is_run_once():
    grid = plan_grid(PLAIN, "cpu", (), 1, deployed=[TILE])
    assert shapes_of(grid) == [*SHAPES, *STRIPS, PURE_SHAPE]
    assert {point.content for point in grid.points} == set(CONTENTS)
    assert len(grid.points) == len(SHAPES) + len(STRIPS) + len(CONTENTS) - 1
    assert len(grid.left_out) == 3
    assert grid.left_out[0].startswith("1x32x32: what the graph costs is unknown")


def test_a_cheap_network_runs_more_of_the_product_and_all_of_its_profile():
    grid = plan_grid(PLAIN, "cpu", (), 1, deployed=[parse_profile("t=1x8x8,1x16x16,1x32x32")], cost=Cost(10, 3))
    assert {Shape(1, 8, 8), Shape(1, 16, 16), Shape(1, 32, 32)} < set(shapes_of(grid))
    counts = Counter(point.shape for point in grid.points)
    assert all(counts[shape] == len(VARIED) for shape in (Shape(1, 8, 8), Shape(1, 41, 1), Shape(1, 37, 53)))
    assert counts[PURE_SHAPE] == len(CONTENTS)  # the profile's best shape, and that of pure colors
    assert all(counts[shape] == 1 for shape in STRIPS)
    assert grid.left_out == ()
    assert len(set(grid.points)) == len(grid.points)


def test_what_costs_too_much_is_left_out_and_named_but_for_the_best_shape():
    rrdb = Cost(18e6, 48)
    grid = plan_grid(PLAIN, "cpu", (), 1, deployed=[TILE], cost=rrdb)
    assert shapes_of(grid) == [*SHAPES, Shape(1, 32, 32), Shape(1, 256, 256), *STRIPS, PURE_SHAPE]
    (said,) = grid.left_out
    assert said.startswith("2x512x512: takes the time of 9538 billion multiply-adds, and one input may take 64 here")
    covered = len(SHAPES) + len(STRIPS) + 2 + len(CONTENTS) - 1
    extra = sum(p.shape.n * p.shape.h * p.shape.w for p in grid.points[covered:]) * rrdb.in_all
    assert extra <= EXTRA


def test_what_the_memory_does_not_hold_is_left_out_even_if_it_is_the_best_shape():
    grid = plan_grid(PLAIN, "cpu", (), 1, deployed=[TILE], cost=Cost(10, 3), max_pixels=20000)
    assert Shape(1, 256, 256) not in shapes_of(grid)
    assert grid.left_out[0] == "1x256x256: the memory that is free here holds 20000 input pixels, and it has 65536"


def test_sides_are_rounded_up_to_the_multiple():
    shapes = shapes_of(plan_grid(PLAIN, "cpu", (), 4))
    assert shapes[:3] == [Shape(1, 64, 64), Shape(1, 40, 56), Shape(2, 48, 64)]
    assert Shape(1, 4, 44) in shapes


def test_true_half_on_a_cpu_has_small_inputs():
    assert shapes_of(plan_grid(HALF, "cpu", (), 1)) == [*SLOW_SHAPES, PURE_SHAPE]
    assert shapes_of(plan_grid(HALF, "cuda:0", (), 1)) == [*SHAPES, *STRIPS, PURE_SHAPE]


def test_a_batch_that_is_always_large_has_small_inputs():
    fixed = [parse_profile("fixed=64x1x1,64x64x64,64x999x999")]
    assert shapes_of(plan_grid(PLAIN, "cpu", fixed, 1, cost=Cost(36, 12)))[:3] == [
        Shape(64, 25, 31), Shape(64, 16, 24), Shape(64, 19, 1)
    ]  # fmt: skip
    assert sum(point.shape.h == 1 for point in plan_grid(PLAIN, "cpu", fixed, 1).points) == 0


def test_shapes_are_brought_into_the_profiles():
    profiles = [parse_profile("tile=1x40x40,1x64x64,1x128x128"), parse_profile("b=2x48x48,2x48x64,4x64x64")]
    shapes = shapes_of(plan_grid(PLAIN, "cuda:0", profiles, 1, cost=Cost(1e3, 48)))
    assert shapes[:3] == [Shape(1, 64, 64), Shape(1, 40, 53), Shape(2, 48, 64)]
    assert {Shape(1, 128, 128), Shape(4, 64, 64)} < set(shapes)
    assert all(any(profile.contains(shape) for profile in profiles) for shape in shapes)
    fixed = [parse_profile("fixed=1x6x5,1x6x5,1x6x5")]
    only = plan_grid(PLAIN, "cpu", fixed, 1, cost=Cost(1e3, 48))
    assert shapes_of(only) == [Shape(1, 6, 5)]
    assert len(only.points) == len(CONTENTS)


def test_where_a_large_side_is_fixed_the_other_one_gives_way():
    taken = [parse_profile("wide=1x1x65536,1x64x65536,3x4096x65536")]
    grid = plan_grid(BackendChoice("onnxruntime"), "cpu", taken, 1, cost=Cost(36, 12))
    sizes = {point.shape: point.shape.n * point.shape.h * point.shape.w for point in grid.points}
    assert {shape.w for shape in sizes} == {65536}
    assert max(size for shape, size in sizes.items() if shape != taken[0].opt) < 2**20
    assert len({shape.n for shape in sizes}) >= 3  # batches are still told apart
