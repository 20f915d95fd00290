"""Every shipped recipe, made small by --set and by nothing else: it trains, goes on after a kill, and is deployed.

Stages are trained once: what one recipe has left in the folder of runs, the next takes, as the command does for users.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sr_deploy.arch.vgg import Vgg19Features
from sr_deploy.cli import main
from sr_deploy.config import named_files
from sr_deploy.files import sha256_of
from sr_deploy.imaging.codec import write_image
from sr_deploy.run_folder import RECIPE_NAME, list_checkpoints
from sr_deploy.train.recipe import Recipe, load_recipe, read_run_recipe
from sr_deploy.train.run import read_manifest, write_manifest

STEPS, KILLED_AT = 8, 4
# The last stages first: each brings those before it.
NAMES = sorted(named_files("train"), key=lambda name: load_recipe(name).discriminator is None)
# One recipe of each published form of the perceptual loss has it; the others train without, as the docs say how.
WITH_VGG19 = ("srgan", "esrgan", "realesrgan")
# One recipe of each architecture and scale is deployed here, the others in the slow tests.
# Recipes that train for INT8, and what they are given.
FOR_INT8 = {"compact-qat": "compact", "rrdb-lite-qat": "rrdb-lite"}
# Those that learn from another network, and here from what.
TEACHERS = {"compact-from-x4plus": "realesrgan-plus"}
DEPLOYED = ("srgan", "msrresnet", "realesrgan-plus", "realesrgan-x2", "compact-gan", "span-gan")

Train = Callable[[str], Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to work in, with pictures to train on and to validate on, and a VGG19 of random weights."""
    root = tmp_path_factory.mktemp("recipes")
    random = np.random.default_rng(5)
    y, x = np.mgrid[:112, :112]
    for number, (folder, side) in enumerate((("pictures", 112), ("pictures", 100), ("validation", 48))):
        waves = np.stack([np.sin(x / (2 + number + channel) + y / 5) for channel in range(3)], axis=2)[:side, :side]
        noisy = 128 + 90 * waves + random.normal(0, 8, waves.shape)
        write_image(root / folder / f"{number}.png", np.clip(noisy, 0, 255).astype(np.uint8))
    torch.manual_seed(5)
    vgg19 = Vgg19Features(["conv5_4"])
    torch.save(vgg19.state_dict(), root / "vgg19.pth")
    return root


@pytest.fixture
def train(folders: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Trains a recipe with the stages before it, unless its run is there already."""
    monkeypatch.chdir(folders)

    def run(name: str) -> Path:
        folder = Path("runs") / name
        if not folder.is_dir():
            if name in TEACHERS:
                run(TEACHERS[name])
            sets = [part for value in shrink(load_recipe(name)) for part in ("--set", value)]
            sets += ["--qat", str(run(FOR_INT8[name]))] if name in FOR_INT8 else []
            assert main(["train", name, "--data", "pictures", "--device", "cpu", *sets]) == 0
        return folder

    return run


def shrink(recipe: Recipe) -> list[str]:
    """What makes a recipe and the stages before it small enough for a test."""
    values = [
        "network.features=8", "network.blocks=1", "data.validation_folder=validation", "data.patch_size=32",
        "data.batch=2", "data.workers=0", "precision.autocast=off", "precision.channels_last=false",
        f"run.steps={STEPS}", f"run.checkpoint_every={KILLED_AT}", "run.log_every=2",
    ]  # fmt: skip
    if "growth" in recipe.arch_spec().options:
        values.append("network.growth=4")
    if "partial" in recipe.arch_spec().options:
        values += ["network.partial=2", "network.kernel=5"]
    if recipe.degradation is not None:
        values += ["degradation.canvas=96", "degradation.pool=5"]
    if recipe.discriminator is not None:
        values.append("discriminator.features=8")
    if recipe.name in WITH_VGG19:
        values.append("loss.perceptual.vgg19=vgg19.pth")
    if recipe.name in TEACHERS:
        values.append(f"loss.distill.teacher=runs/{TEACHERS[recipe.name]}")
    if recipe.name not in WITH_VGG19 and recipe.loss.perceptual is not None:
        values += ["loss.perceptual.weight=0", f"{recipe.name}:loss.weight=1"]
    return values


@pytest.mark.parametrize("name", NAMES)
def test_runs_from_the_stage_before_and_logs_each_term(train: Train, name: str) -> None:
    run = train(name)
    recipe = read_run_recipe(run / RECIPE_NAME)
    manifest = read_manifest(run)
    assert (manifest.status, manifest.step, manifest.skipped_steps) == ("finished", STEPS, 0)
    begun_from = FOR_INT8.get(name, recipe.init_from)
    if begun_from is None:
        assert manifest.started_from is None
    else:
        _, before = list_checkpoints(Path("runs") / begun_from)[-1]
        assert manifest.started_from is not None
        assert manifest.started_from.path == f"runs/{begun_from}"
        assert manifest.started_from.sha256 == sha256_of(before / "generator_ema.safetensors")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    terms = {"loss"}
    if recipe.loss.adversarial is not None:
        terms |= {"adversarial", "discriminator", "d_real", "d_fake", "discriminator_gradient_norm"}
        terms |= {"pixel"} if recipe.loss.weight > 0 else set()
        terms |= {"perceptual"} if name in WITH_VGG19 else set()
    terms |= {"pixel", "distill"} if name in FOR_INT8 else set()
    training = [line for line in lines if line["kind"] == "training"]
    assert [line["step"] for line in training] == [2, 4, 6, 8]
    for line in training:
        assert set(line) == {
            "step", "kind", "learning_rate", "steps_per_second", "data_wait", "gradient_norm", "weight_norm", *terms
        }  # fmt: skip
    parts = {"pixel", "perceptual", "adversarial", "distill"} & terms
    if parts:
        assert training[-1]["loss"] == pytest.approx(sum(training[-1][part] for part in parts), rel=1e-5)
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [STEPS]


@pytest.mark.parametrize("name", NAMES)
def test_goes_on_after_a_kill_with_the_same_bits(train: Train, name: str) -> None:
    whole = train(name)
    killed = Path("killed") / name
    leave_as_after_a_kill(whole, killed)
    assert main(["train", "--resume", "--out", str(killed), "--device", "cpu"]) == 0
    (_, expected), (_, got) = list_checkpoints(whole)[-1], list_checkpoints(killed)[-1]
    files = sorted(path.name for path in expected.glob("*.safetensors"))
    assert files == sorted(path.name for path in got.glob("*.safetensors"))
    assert ("discriminator.safetensors" in files) == (read_run_recipe(whole / RECIPE_NAME).discriminator is not None)
    for file in files:
        assert_equal_bits(load_file(expected / file), load_file(got / file), file)
    states = [torch.load(folder / "state.pt", weights_only=True) for folder in (expected, got)]
    for state in states:
        del state["seconds"]
    assert_equal_bits(*states, "state.pt")


@pytest.mark.slow
@pytest.mark.parametrize("name", DEPLOYED)
def test_is_exported_and_verified(train: Train, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(name)
    capsys.readouterr()
    assert main(["export", str(run), "--backend", "none", "--no-rewrite", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["passed"] is True
    assert "onnxruntime:fp32" in {entry["backend"] for entry in document["certificate"]}
    _, checkpoint = list_checkpoints(run)[-1]
    assert document["manifest"]["source"]["sha256"] == sha256_of(checkpoint / "generator_ema.safetensors")


def test_missing_vgg19_is_said_before_any_stage_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert main(["train", "srgan"]) == 1
    message = capsys.readouterr().err
    assert "vgg19-dcbc9e9d.pth" in message
    assert "--set loss.perceptual.weight=0" in message
    assert message.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def leave_as_after_a_kill(whole: Path, killed: Path) -> None:
    """A copy of a run as `kill -9` between two checkpoints would have left it."""
    shutil.copytree(whole, killed)
    shutil.rmtree(killed / "checkpoints" / f"step-{STEPS:06d}")
    manifest = read_manifest(whole)
    checkpoints = tuple(path for path in manifest.checkpoints if not path.endswith(f"{STEPS:06d}"))
    write_manifest(
        killed,
        manifest.model_copy(update={"status": "running", "step": KILLED_AT + 3, "checkpoints": checkpoints}),
    )


def assert_equal_bits(one: object, other: object, where: str) -> None:
    """Nested containers with tensors are equal, tensors to the bit."""
    if isinstance(one, torch.Tensor):
        assert isinstance(other, torch.Tensor), where
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert isinstance(other, dict), where
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal_bits(one[key], other[key], f"{where}: {key}")
    elif isinstance(one, list | tuple):
        assert isinstance(other, list | tuple), where
        assert len(one) == len(other), where
        for number, (first, second) in enumerate(zip(one, other, strict=True)):
            assert_equal_bits(first, second, f"{where}: {number}")
    else:
        assert one == other, where
