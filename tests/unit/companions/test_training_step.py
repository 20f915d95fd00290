"""The script that times training steps, on a network of a few weights."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
SMALL = [
    "network.features=8", "network.blocks=1", "data.patch_size=32", "data.workers=0", "precision.autocast=off",
    "precision.channels_last=false",
]  # fmt: skip
WITH_DISCRIMINATOR = ["discriminator.features=8", "degradation.canvas=96", "loss.perceptual.weight=0"]


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("benchmarks/training_step.py")


def run(script, monkeypatch, folder, settings, *arguments):
    monkeypatch.setattr(script, "write_random_vgg19", lambda temporary: temporary / "none.pth")
    words = [part for value in (*SMALL, *settings) for part in ("--set", value)]
    monkeypatch.setattr(sys, "argv", ["training_step.py", "--out", str(folder), *words, *arguments])
    page = (BENCHMARKS.parent / "docs" / "training.md").read_bytes()
    script.main()
    assert (BENCHMARKS.parent / "docs" / "training.md").read_bytes() == page  # only committed results go there


def test_times_each_phase(script, monkeypatch, tmp_path):
    arguments = ["--recipe", "compact-gan", "--steps", "2", "--batch", "2", "--device", "cpu"]
    run(script, monkeypatch, tmp_path, WITH_DISCRIMINATOR, *arguments)
    document = json.loads((tmp_path / "training_step_cpu.json").read_text())
    (row,) = document["rows"]
    assert (row["recipe"], row["batch"], row["patch_size"], row["precision"]) == ("compact-gan", 2, 32, "fp32")
    assert set(row["shares"]) == {"data", "degradation", "forward", "backward", "update"}
    assert all(share > 0 for share in row["shares"].values())
    assert sum(row["shares"].values()) == pytest.approx(100)
    assert 0 < row["fastest_ms"] <= row["step_ms"] <= row["slowest_ms"]
    assert row["tflop"] > 0
    assert "| compact-gan | 2 | 32 | fp32 |" in (tmp_path / "training_step_cpu.md").read_text()


def test_counts_the_operations_of_one_patch(script, monkeypatch, tmp_path):
    run(script, monkeypatch, tmp_path, [], "--count", "--recipe", "demo")
    document = json.loads((tmp_path / "training_operations.json").read_text())
    # Convolutions 3 -> 8, 8 -> 8 and 8 -> 48 on 8 x 8 pixels, two operations for each of 9 products, forward and for
    # weights and inputs backward; the first has no gradient of its input.
    forward = [2 * 9 * 64 * i * o for i, o in ((3, 8), (8, 8), (8, 48))]
    assert document["tflop"]["demo"] == pytest.approx((3 * sum(forward) - forward[0]) / 1e12)
