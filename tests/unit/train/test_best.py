from __future__ import annotations

import pytest

from sr_deploy.measure.quality import ImageScores
from sr_deploy.run_folder import checkpoint_folder
from sr_deploy.train.best import find_best_checkpoint, is_better, is_out_of_patience
from sr_deploy.train.recipe import RunRecipe
from sr_deploy.train.run import ValidationResult


def make_result(step: int, psnr: float = 30.0, ssim: float = 0.9, niqe: float | None = None) -> ValidationResult:
    scores = ImageScores(psnr_y=psnr, ssim_y=ssim, psnr_rgb=psnr - 2, ssim_rgb=ssim, niqe=niqe)
    return ValidationResult(step=step, model=scores, bicubic=scores, photographs=())


def make_recipe(**values: object) -> RunRecipe:
    return RunRecipe.model_validate({"steps": 1000, "validate_every": 100, **values})


def test_the_recipe_says_what_is_compared():
    sharper, nearer = make_result(200, psnr=30.0, ssim=0.91), make_result(100, psnr=30.5, ssim=0.90)
    assert not is_better(sharper, nearer, make_recipe())
    assert is_better(sharper, nearer, make_recipe(best_by="ssim_y"))
    assert not is_better(nearer, nearer, make_recipe())  # of equal ones the first stays
    assert is_better(nearer, None, make_recipe())


def test_the_lowest_niqe_is_best_and_none_is_never():
    by_niqe, low, high, none = make_recipe(best_by="niqe"), *(make_result(100, niqe=one) for one in (4.0, 5.0, None))
    assert is_better(low, high, by_niqe)
    assert not is_better(high, low, by_niqe)
    assert is_better(high, none, by_niqe)
    assert not is_better(none, high, by_niqe)
    assert not is_better(none, none, by_niqe)
    with pytest.raises(ValueError, match="needs LPIPS's weights"):
        make_recipe(best_by="lpips")


@pytest.mark.parametrize(
    ("step", "patience", "over"),
    [(300, 200, True), (299, 200, False), (350, 201, False), (399, 250, False), (400, 250, True), (900, 0, False)],
)
def test_patience_ends_at_a_validation(step, patience, over):
    assert is_out_of_patience(step, make_result(100), make_recipe(patience=patience)) is over
    assert not is_out_of_patience(step, None, make_recipe(patience=patience))


def test_the_best_before_stands_until_the_new_one_is_written(tmp_path):
    checkpoint_folder(tmp_path, 100).mkdir(parents=True)
    before = "checkpoints/step-000100"
    assert find_best_checkpoint(tmp_path, make_recipe(), make_result(200), before) == tmp_path / before
    checkpoint_folder(tmp_path, 200).mkdir()
    assert find_best_checkpoint(tmp_path, make_recipe(), make_result(200), before) == checkpoint_folder(tmp_path, 200)
    assert find_best_checkpoint(tmp_path, make_recipe(keep_best=False), make_result(200), before) is None
    assert find_best_checkpoint(tmp_path / "none", make_recipe(), make_result(200), None) is None
