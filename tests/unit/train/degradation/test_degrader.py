from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sr_deploy.errors import ShapeError
from sr_deploy.train.degradation import Degrader
from sr_deploy.train.degradation import degrader as degrader_module
from sr_deploy.train.degradation.degrader import cut_patches, find_pieces
from sr_deploy.train.degradation.jpeg import compress_jpeg

CPU = torch.device("cpu")


def make_degrader(recipe, **changes) -> Degrader:
    settings = {"scale": 4, "patch_size": 96, "seed": 3, "device": CPU} | changes
    return Degrader(recipe, **settings)


def test_pairs_have_their_sizes_and_lie_on_levels(photographs, degradation):
    for step in range(8):
        pair = make_degrader(degradation).degrade(photographs, step)
        assert pair.lr_NCHW.shape == (4, 3, 24, 24)
        assert pair.hr_NCHW.shape == (4, 3, 96, 96)
        assert pair.target_NCHW is pair.hr_NCHW
        for image in (pair.lr_NCHW, pair.hr_NCHW):
            levels = image * 255
            assert image.dtype == torch.float32
            assert torch.allclose(levels, levels.round(), atol=1e-3)
            assert 0 <= image.min() <= image.max() <= 1


def test_patches_of_a_pair_show_the_same_place(photographs, degradation):
    """Shrunk originals resemble their own degraded patch far more than the neighbor's."""
    pair = make_degrader(degradation).degrade(photographs, 1)
    small = F.interpolate(pair.hr_NCHW, size=24, mode="area")
    distance = (small[:, None] - pair.lr_NCHW[None]).abs().mean((2, 3, 4))
    assert distance.argmin(1).tolist() == [0, 1, 2, 3]
    corners = (make_degrader(degradation).draw(1, 0, 4).crop * 17).astype(int) * 4
    for n, (top, left) in enumerate(corners):
        assert torch.equal(pair.hr_NCHW[n], photographs[n, :, top : top + 96, left : left + 96])


def test_same_seed_step_and_samples_give_the_same_bits(photographs, degradation):
    first, second = make_degrader(degradation), make_degrader(degradation)
    second.degrade(photographs, 99)  # what came before does not matter
    one, two = first.degrade(photographs, 5, 8), second.degrade(photographs, 5, 8)
    assert torch.equal(one.lr_NCHW, two.lr_NCHW)
    assert torch.equal(one.hr_NCHW, two.hr_NCHW)
    for other in (
        first.degrade(photographs, 6, 8),
        first.degrade(photographs, 5, 12),
        make_degrader(degradation, seed=4).degrade(photographs, 5, 8),
    ):
        assert not torch.equal(one.lr_NCHW, other.lr_NCHW)


def test_without_blur_and_noise_it_is_resize_and_jpeg(photographs, degradation):
    """Every part in its place: the rest, done by hand, gives the same pixels."""
    degrader = make_degrader(degradation, patch_size=160)
    for step in (0, 1, 2, 3):
        draw = degrader.draw(step, 0, 4)
        still = [
            replace(
                stage,
                kernel=replace(stage.kernel, kind=np.zeros(4, int)),
                gaussian=True,
                sigma=np.zeros(4),
            )
            for stage in draw.stages
        ]
        draw = replace(draw, stages=tuple(still), final=replace(draw.final, kind=np.zeros(4, int)))
        first, second = still
        image = F.interpolate(photographs, (int(160 * first.factor),) * 2, mode=first.mode).clamp(0, 1)
        image = compress_jpeg(image, torch.from_numpy(first.quality))
        image = F.interpolate(image, (int(40 * second.factor),) * 2, mode=second.mode).clamp(0, 1)
        quality = torch.from_numpy(second.quality)
        if draw.jpeg_last:
            image = compress_jpeg(F.interpolate(image, (40, 40), mode=draw.final_mode).clamp(0, 1), quality)
        else:
            image = F.interpolate(compress_jpeg(image, quality), (40, 40), mode=draw.final_mode).clamp(0, 1)
        difference = (degrader.apply(photographs, draw, step).lr_NCHW - (image * 255).round() / 255).abs() * 255
        assert difference.mean() < 0.02  # a coefficient on the edge may be rounded the other way


def test_both_last_orders_and_both_noises_occur(degradation):
    draws = [make_degrader(degradation).draw(step, 0, 1) for step in range(40)]
    assert {draw.jpeg_last for draw in draws} == {True, False}
    assert {draw.stages[0].gaussian for draw in draws} == {True, False}


def test_one_order_is_milder_than_two(photographs, degradation):
    reference = F.interpolate(photographs, scale_factor=0.25, mode="area")
    errors = []
    for orders in (1, 2):
        degrader = make_degrader(degradation.model_copy(update={"orders": orders}), patch_size=160)
        errors.append(
            np.mean([float((degrader.degrade(photographs, s).lr_NCHW - reference).abs().mean()) for s in range(6)])
        )
    assert errors[0] < 0.9 * errors[1]


def test_sharpening_changes_target_and_low_resolution_but_not_the_original(photographs, degradation):
    sharp = degradation.model_copy(update={"sharpen": degradation.sharpen.model_copy(update={"enabled": True})})
    plain, pair = (make_degrader(recipe).degrade(photographs, 0) for recipe in (degradation, sharp))
    assert torch.equal(pair.hr_NCHW, plain.hr_NCHW)
    assert not torch.equal(pair.lr_NCHW, plain.lr_NCHW)
    levels = pair.target_NCHW * 255
    assert torch.allclose(levels, levels.round(), atol=1e-3)
    assert pair.target_NCHW.var((2, 3)).mean() > 1.02 * pair.hr_NCHW.var((2, 3)).mean()


def test_stays_in_fp32_under_autocast_and_keeps_no_gradient(photographs, degradation):
    plain = make_degrader(degradation).degrade(photographs, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = make_degrader(degradation).degrade(photographs.requires_grad_(), 2)
    assert torch.equal(plain.lr_NCHW, cast.lr_NCHW)
    assert not cast.lr_NCHW.requires_grad


def test_tiny_canvases_work_too(photographs, degradation):
    recipe = degradation.model_copy(update={"canvas": 16})
    for step in range(12):
        pair = make_degrader(recipe, patch_size=16).degrade(photographs[:, :, :16, :16], step)
        assert pair.lr_NCHW.shape == (4, 3, 4, 4)
        assert pair.lr_NCHW.isfinite().all()


@pytest.mark.parametrize("side", [80, 98])
def test_canvases_that_do_not_fit_are_refused(photographs, degradation, side):
    with pytest.raises(ShapeError, match=f"cannot degrade {side}x{side}.*degradation.canvas"):
        make_degrader(degradation).degrade(photographs[:, :, :side, :side], 0)


def test_patches_are_cut_where_they_should_be(photographs):
    corners = np.array([[0, 0], [5, 17], [64, 64], [64, 0]])
    for n, patch in enumerate(cut_patches(photographs, corners, 96)):
        top, left = corners[n]
        assert torch.equal(patch, photographs[n, :, top : top + 96, left : left + 96])


def test_cores_share_a_batch_without_changing_it(photographs, degradation):
    many = photographs.repeat(8, 1, 1, 1)  # two slices
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append([make_degrader(degradation).degrade(many, step).lr_NCHW for step in range(3)])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))
    # The second slice has the same originals, and parameters and noise of its own.
    assert not torch.equal(results[0][0][:4], results[0][0][16:20])


def test_pieces_are_as_large_as_caches_and_change_nothing_but_the_noise(photographs, degradation, monkeypatch):
    quiet = {"sigma": (0.0, 0.0), "poisson_scale": (0.0, 0.0)}
    stages = {
        name: stage.model_copy(update={"noise": stage.noise.model_copy(update=quiet)})
        for name, stage in (("first", degradation.first), ("second", degradation.second))
    }
    degrader = make_degrader(degradation.model_copy(update=stages))
    whole = [degrader.degrade(photographs, step).lr_NCHW for step in range(4)]
    monkeypatch.setattr(degrader_module, "_CACHED_NUMBERS", 1)
    single = [degrader.degrade(photographs, step).lr_NCHW for step in range(4)]
    # The last bits of sums may tip a coefficient of a JPEG to the other side.
    assert all((one - other).abs().mean() < 1e-3 for one, other in zip(whole, single, strict=True))


@pytest.mark.parametrize(("canvas", "first", "lengths"), [(160, 100, [6]), (400, 600, [1] * 6), (400, 200, [3, 3])])
def test_pieces_go_by_the_largest_image(canvas, first, lengths):
    plan = SimpleNamespace(sizes=((first, first), (10, 10), (canvas // 4, canvas // 4)))
    pieces = find_pieces(torch.empty(6, 3, canvas, canvas), plan)
    assert [piece.stop - piece.start for piece in pieces] == lengths
    assert find_pieces(torch.empty(6, 3, canvas, canvas, device="meta"), plan) == [slice(0, 6)]
