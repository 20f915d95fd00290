from __future__ import annotations

import json
from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest

from sr_deploy.errors import InputError
from sr_deploy.measure.machine import describe_machine
from sr_deploy.train.curves import draw_curves, list_plots
from sr_deploy.train.run import PrecisionRecord, RunManifest, write_manifest


@pytest.fixture
def run(tmp_path):
    now = datetime.now(UTC)
    manifest = RunManifest(
        name="run", recipe="tiny", created_at=now, updated_at=now, status="running", step=20, steps=40, seconds=1.0,
        precision=PrecisionRecord(autocast="off", channels_last=False), device="cpu", data_sha256="0" * 64,
        versions={}, machine=describe_machine(),
    )  # fmt: skip
    write_manifest(tmp_path, manifest)
    lines = [
        {
            "step": 10,
            "kind": "training",
            "loss": 0.5,
            "pixel": 0.4,
            "spectrum": 0.1,
            "discriminator": 0.7,
            "learning_rate": 1e-3,
            "steps_per_second": 3.0,
        },
        {"step": 20, "kind": "training", "skipped_steps": 10, "learning_rate": 1e-3},
        {"step": 20, "kind": "validation", "model": {"psnr_y": 30.0}, "bicubic": {"psnr_y": 29.0}},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 30, "ki')
    return tmp_path


def test_every_figure_of_the_run_is_drawn(run, tmp_path):
    draw_curves(run, tmp_path / "curves.svg")
    texts = [one.text for one in ElementTree.parse(tmp_path / "curves.svg").iter() if one.tag.endswith("}text")]
    labels = ("loss", "pixel", "spectrum", "discriminator", "network", "bicubic", "learning rate", "steps per second")
    assert [label for label in (*labels, "run: recipe tiny, 20 steps") if label not in texts] == []
    assert not {"adversarial", "steps_per_second", "Y-SSIM of photographs"} & set(texts)
    notes = [one.text for one in ElementTree.parse(tmp_path / "curves.svg").iter() if one.tag.endswith("}title")]
    assert notes == [
        *("step 10: 0.5", "step 10: 0.4", "step 10: 0.1", "step 10: 0.7"),
        *("step 20: 30", "step 20: 29", "step 10: 0.001", "step 20: 0.001", "step 10: 3"),
    ]


def test_the_best_step_is_marked_and_very_many_points_become_means():
    validations = [
        {"step": step, "kind": "validation", "model": {"psnr_y": psnr}, "bicubic": {"psnr_y": 29.0}}
        for step, psnr in ((10, 30.0), (20, 31.0), (30, 30.5))
    ]
    training = [{"step": step, "kind": "training", "loss": float(step)} for step in range(1, 2500)]
    loss, quality = list_plots([*training, *validations], best_step=20)
    assert [one.name for one in quality.series] == ["network", "bicubic", "best: step 20"]
    assert [(one.x, one.y) for one in quality.series[2].points] == [(20, 29.0), (20, 31.0)]
    points = loss.series[0].points
    assert (len(points), points[0].x, points[0].y, points[-1].x) == (833, 3, 2.0, 2499)
    (quality,) = list_plots(validations, best_step=10**400)
    assert len(quality.series) == 2


@pytest.mark.parametrize("figure", ["NaN", "Infinity", "1e308", "1" + 400 * "0", "true", '"3"', "[1]", "null"])
def test_what_is_no_figure_is_left_out(run, tmp_path, figure):
    with (run / "metrics.jsonl").open("a") as log:
        log.write(f'\n{{"step": 30, "kind": "training", "loss": {figure}, "learning_rate": {figure}}}\n')
    draw_curves(run, tmp_path / "curves.svg")
    assert "step 30" not in (tmp_path / "curves.svg").read_text()


def test_what_cannot_be_drawn_is_said(run, tmp_path):
    with pytest.raises(InputError, match=r"unknown suffix '\.png'; name it \.svg"):
        draw_curves(run, tmp_path / "curves.png")
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match=r"has no figures yet \(metrics\.jsonl is empty\)"):
        draw_curves(run, tmp_path / "curves.svg")
    with pytest.raises(InputError, match="is not a run"):
        draw_curves(tmp_path / "none", tmp_path / "curves.svg")
    assert not list(tmp_path.glob("curves*"))
