from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.cli import main
from sr_deploy.imaging.codec import bundled_photographs, read_image

CAT = str(bundled_photographs()["chelsea"])


def test_sheet_has_an_original_kernels_and_a_result_for_each_sample(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["degrade", CAT, "--count", "2", "--seed", "5", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["path"] == "chelsea-degraded.png"
    assert document["seed"] == 5
    assert len(document["samples"]) == 2
    sheet = read_image(tmp_path / "chelsea-degraded.png")
    # Two samples in a row: original 256, kernels 84, result 256, with gaps; captions below.
    assert sheet.shape[1] == 2 * (256 + 84 + 256 + 2 * 8) + 3 * 8
    assert 256 < sheet.shape[0] < 500
    result = sheet[:256, 256 + 8 + 84 + 8 :][:, :256]
    assert (result.reshape(64, 4, 64, 4, 3) == result[::4, ::4].reshape(64, 1, 64, 1, 3)).all()  # enlarged pixels
    original = sheet[:256, :256].astype(float)
    small = original.reshape(64, 4, 64, 4, 3).mean((1, 3))
    assert np.corrcoef(small.ravel(), result[::4, ::4].ravel())[0, 1] > 0.8  # of the same place
    orders = document["samples"][0]["orders"]
    assert len(orders) == 2
    assert 30 <= orders[0]["jpeg_quality"] <= 95


def test_settings_of_the_recipe_and_the_same_seed(tmp_path: Path, capsys):
    sheets = []
    for number in range(2):
        out = tmp_path / f"{number}.png"
        words = ["degrade", CAT, "--count", "1", "--out", str(out), "--set", "degradation.orders=1"]
        assert main([*words, "--set", "data.patch_size=64", "--json"]) == 0
        assert len(json.loads(capsys.readouterr().out)["samples"][0]["orders"]) == 1
        sheets.append(out.read_bytes())
    assert sheets[0] == sheets[1]
    assert read_image(tmp_path / "0.png").shape[1] == 64 + 21 + 64 + 2 * 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([CAT, "--recipe", "demo"], "recipe 'demo' has no [degradation]"),
        ([CAT, "--out", "sheet.bmp"], "unknown suffix '.bmp'"),
        (["nothing.png"], "nothing.png does not exist"),
        ([CAT, "--set", "degradation.order=1"], "did you mean 'orders'?"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(tmp_path: Path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["degrade", *words]) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
