"""The best checkpoint of a run, the end by patience, and checkpoints by name, with validations that are made up."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from sr_deploy.errors import InputError
from sr_deploy.measure.quality import ImageScores
from sr_deploy.model import open_model
from sr_deploy.run_folder import checkpoint_folder, list_checkpoints
from sr_deploy.train import loop, session_validation
from sr_deploy.train.loop import StepReport, train
from sr_deploy.train.run import RunManifest, ValidationResult, read_manifest

RUN = {"validate_every": 2, "checkpoint_every": 4, "keep_checkpoints": 1}
RISING_TO_6 = {2: 28.0, 4: 29.0, 6: 31.0, 8: 30.0, 10: 30.5, 12: 30.9}


class Killed(BaseException):
    """What no handler expects."""


@pytest.fixture
def let_validate(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[int, float]], None]:
    """Lets validations have the PSNR that is given by step."""

    def let(psnr_by_step: Mapping[int, float]) -> None:
        def validate(_network: object, _held_out: object, _scale: int, step: int) -> ValidationResult:
            scores = ImageScores(psnr_y=psnr_by_step[step], ssim_y=1 - step / 100, psnr_rgb=20.0, ssim_rgb=0.5)
            return ValidationResult(step=step, model=scores, bicubic=scores, photographs=())

        monkeypatch.setattr(session_validation, "validate", validate)

    return let


def kill_after(step: int) -> Callable[[StepReport], None]:
    def watch(report: StepReport) -> None:
        if report.step == step:
            raise Killed

    return watch


def kept_steps(run: Path) -> list[int]:
    return [step for step, _ in list_checkpoints(run)]


def test_the_best_checkpoint_stays_and_has_a_name(tmp_path, make_recipe, let_validate):
    let_validate(RISING_TO_6)
    run = tmp_path / "run"
    manifest = train(make_recipe(run=RUN), run)
    assert kept_steps(run) == [6, 12]  # 6 is none of the recipe's checkpoints: its validation made it one
    assert manifest.checkpoints == ("checkpoints/step-000006", "checkpoints/step-000012")
    assert (manifest.best_checkpoint, manifest.best_validation.step) == ("checkpoints/step-000006", 6)
    opened = {name: open_model(f"{run}@{name}").path for name in ("best", "last", "6", "12")}
    six, twelve = checkpoint_folder(run, 6), checkpoint_folder(run, 12)
    assert opened == {"best": six, "last": twelve, "6": six, "12": twelve}
    assert open_model(run).weights_path.parent == twelve
    with pytest.raises(InputError, match=r"run has no checkpoint '8'; kept are those after .*: 6, 12; give .*@last"):
        open_model(f"{run}@8")


def test_another_metric_another_best_and_without_it_none(tmp_path, make_recipe, let_validate):
    let_validate(RISING_TO_6)
    manifest = train(make_recipe(run={**RUN, "best_by": "ssim_y"}), tmp_path / "ssim")
    assert (manifest.best_checkpoint, kept_steps(tmp_path / "ssim")) == ("checkpoints/step-000002", [2, 12])
    manifest = train(make_recipe(run={**RUN, "keep_best": False}), tmp_path / "off")
    assert (manifest.best_checkpoint, manifest.best_validation.step) == (None, 6)
    assert kept_steps(tmp_path / "off") == [12]
    with pytest.raises(InputError, match="no checkpoint 'best'"):
        open_model(tmp_path / "off@best")


def test_a_run_from_before_has_its_best_where_it_was_kept(tmp_path, make_recipe, let_validate):
    let_validate({**RISING_TO_6, 12: 40.0})
    run = tmp_path / "run"
    train(make_recipe(run={**RUN, "keep_best": False}), run)
    document = json.loads((run / "run.json").read_text())
    del document["best_checkpoint"]
    (run / "run.json").write_text(json.dumps(document))
    assert read_manifest(run).best_checkpoint is None
    assert open_model(f"{run}@best").path == checkpoint_folder(run, 12)


@pytest.mark.parametrize("killed_after", [5, 6, 7, 9])
def test_a_run_that_is_killed_keeps_the_best_too(tmp_path, make_recipe, let_validate, killed_after):
    let_validate(RISING_TO_6)
    recipe, run = make_recipe(run=RUN), tmp_path / "run"
    with pytest.raises(Killed):
        train(recipe, run, on_step=kill_after(killed_after))
    before = open_model(f"{run}@best").path
    assert before == checkpoint_folder(run, 6 if killed_after >= 6 else 4)
    train(recipe, run, resume=True)
    assert kept_steps(run) == [6, 12]
    assert open_model(f"{run}@best").path == checkpoint_folder(run, 6)


def test_the_manifest_never_names_a_checkpoint_that_is_not_there(tmp_path, make_recipe, let_validate, monkeypatch):
    let_validate(RISING_TO_6)
    run = tmp_path / "run"
    seen = []

    def looking(call: Callable[..., object]) -> Callable[..., object]:
        def look_and_call(*args: object, **options: object) -> object:
            if (run / "run.json").is_file():
                named = read_manifest(run)
                assert named.best_checkpoint is None or (run / named.best_checkpoint).is_dir()
                assert all((run / name).is_dir() for name in named.checkpoints)
                seen.append(named.best_checkpoint and int(named.best_checkpoint[-6:]))
            return call(*args, **options)

        return look_and_call

    for name in ("write_checkpoint", "update_manifest", "delete_old_checkpoints"):  # a kill may come before each
        monkeypatch.setattr(loop, name, looking(getattr(loop, name)))
    train(make_recipe(run=RUN), run)
    assert list(dict.fromkeys(seen)) == [None, 2, 4, 6]


def test_patience_ends_the_training_and_again_after_a_kill(tmp_path, make_recipe, let_validate, said):
    let_validate(RISING_TO_6)
    recipe, run = make_recipe(run={**RUN, "patience": 4}), tmp_path / "run"

    def check(manifest: RunManifest) -> None:
        assert (manifest.status, manifest.step, manifest.steps) == ("finished", 10, 12)
        assert kept_steps(run) == [6, 10]

    check(train(recipe, run))
    said.clear()
    check(train(recipe, run, resume=True))
    assert said == [f"{run} is finished: 10 steps; to train on: --resume --set run.patience=0"]
    manifest = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**manifest, "status": "running"}))  # killed before it said so
    check(train(recipe, run, resume=True))
    longer = train(make_recipe(run=RUN), run, resume=True)
    assert (longer.status, longer.step, kept_steps(run)) == ("finished", 12, [6, 12])


def test_a_better_validation_while_patience_lasts_goes_on(tmp_path, make_recipe, let_validate):
    let_validate({**RISING_TO_6, 10: 32.0})
    manifest = train(make_recipe(run={**RUN, "patience": 4}), tmp_path / "run")
    assert (manifest.step, manifest.best_checkpoint) == (12, "checkpoints/step-000010")


def test_a_best_checkpoint_that_was_deleted_is_not_what_is_to_be_beaten(tmp_path, make_recipe, let_validate):
    let_validate(RISING_TO_6)
    recipe, run = make_recipe(run=RUN), tmp_path / "run"
    stop = threading.Event()
    train(recipe, run, stop=stop, on_step=lambda report: stop.set() if report.step == 8 else None)
    for path in checkpoint_folder(run, 6).iterdir():
        path.unlink()
    checkpoint_folder(run, 6).rmdir()
    manifest = train(recipe, run, resume=True)
    assert (manifest.best_checkpoint, kept_steps(run)) == ("checkpoints/step-000012", [12])
