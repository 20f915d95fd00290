"""The script that makes the shipped bundle: its photographs come out of packages as they were, or not at all."""

import dataclasses
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.errors import InputError
from sr_deploy.files import sha256_of
from sr_deploy.imaging.codec import read_image, write_image
from sr_deploy.imaging.resize import downscale_bicubic
from sr_deploy.measure.machine import describe_machine
from sr_deploy.train.run import PrecisionRecord, RunManifest, write_manifest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("train/make_small_x2.py")


def test_photographs_of_installed_packages_are_those_that_were_trained_on(script, tmp_path):
    installed = [one for one in (*script.TRAINING, *script.HELD_OUT) if one.package is script.SKIMAGE]
    assert len(installed) == 12
    script.collect_photographs(installed, tmp_path / "new")
    assert {path.name: sha256_of(path) for path in (tmp_path / "new").iterdir()} == {
        one.file: one.sha256 for one in installed
    }


@pytest.fixture
def pictured(script, tmp_path, monkeypatch):
    """A package with one picture, which is found without being imported."""
    folder = tmp_path / "pictured"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "mine.png").write_bytes(b"a picture")
    monkeypatch.syspath_prepend(tmp_path)
    package = script.Package("pictured-things", "pictured", ".")
    return script.Photograph("mine.png", package, "CC0", "me", sha256_of(folder / "mine.png"))


def test_a_picture_is_copied_byte_by_byte(script, tmp_path, pictured):
    script.collect_photographs([pictured], tmp_path / "out")
    assert (tmp_path / "out" / "mine.png").read_bytes() == b"a picture"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, r"mine\.png is not the picture .*\(SHA-256 [0-9a-f]{64}, not 0{64}\); install another"),
        ({"file": "none.png"}, r"none\.png is not the picture .*\(SHA-256 no such file, not [0-9a-f]{64}\)"),
        ({"package": "absent"}, r"^no-such-thing is not installed; run: pip install no-such-thing$"),
    ],
)
def test_nothing_else_is_taken(script, tmp_path, pictured, change, message):
    if "package" in change:
        change = {"package": script.Package("no-such-thing", "no_such_thing", ".")}
    with pytest.raises(InputError, match=message):
        script.collect_photographs([dataclasses.replace(pictured, **change)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_halves_are_the_papers_bicubic_and_made_once(script, tmp_path):
    random = np.random.default_rng(2)
    whole = random.integers(0, 256, (31, 40, 3), np.uint8)
    write_image(tmp_path / "noise.png", whole)
    for _ in range(2):
        script.add_halves(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["noise-half.png", "noise.png"]
    assert (read_image(tmp_path / "noise-half.png") == downscale_bicubic(whole[:30], 2)).all()


def test_training_and_held_out_share_nothing(script):
    assert {one.sha256 for one in script.TRAINING} & {one.sha256 for one in script.HELD_OUT} == set()


def test_terms_travel_with_the_bundle(script):
    assert (ROOT / "sr_deploy/_models/small-x2/PHOTOGRAPHS.md").read_text(encoding="utf-8") == script.describe_terms()


def test_page_names_each_photograph_with_its_terms(script):
    page = (ROOT / "docs" / "shipped-model.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \| ([\w-]+) \| (.+?) \| (.+?) \|$", page, re.MULTILINE)
    assert rows == [(one.file, one.package.name, one.terms, one.source) for one in (*script.TRAINING, *script.HELD_OUT)]


@pytest.mark.parametrize(
    ("status", "first"),
    [
        (None, "train small-x2 --data photographs/training --device cpu --out runs/small-x2"),
        ("stopped", "train --resume --device cpu --out runs/small-x2"),
        ("finished", "export runs/small-x2 --fp16 --int8"),
    ],
)
def test_goes_on_where_it_was(script, tmp_path, monkeypatch, status, first):
    monkeypatch.chdir(tmp_path)
    if status is not None:
        run = Path("runs/small-x2")
        (run / "checkpoints/step-000010").mkdir(parents=True)
        write_manifest(run, make_manifest(status))
    commands = [" ".join(words) for words in script.list_commands()]
    assert commands[0].startswith(first)
    assert [command.split()[0] for command in commands[-3:]] == ["export", "evaluate", "evaluate"]
    assert "--calibration photographs/training --max-drop-db 0.05 --backend none" in commands[-3]


def make_manifest(status):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return RunManifest(
        name="small-x2",
        recipe="small-x2",
        created_at=now,
        updated_at=now,
        status=status,
        step=10,
        steps=10,
        seconds=1,
        checkpoints=("checkpoints/step-000010",),
        precision=PrecisionRecord(autocast="bf16", channels_last=True),
        device="cpu",
        data_sha256="0" * 64,
        versions={},
        machine=describe_machine(),
    )
