"""The script that measures cost curves: each of its points, at the smallest size, and what it makes of them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

PAGES = Path(__file__).parents[3] / "docs"


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("benchmarks/cost_curves.py")


@pytest.fixture(scope="module")
def points(script):
    return sys.modules["cost_points"]


@pytest.fixture(scope="module")
def pages(script):
    return sys.modules["cost_pages"]


def test_an_exponent_above_its_limit_is_a_finding(pages):
    x = [10, 100, 1000, 10_000, 100_000]
    noise = np.random.default_rng(0).uniform(0.98, 1.02, (3, len(x)))
    linear, sorting, square = ([0.5 + np.array(x) ** power for _ in noise] * noise for power in (1, 1.2, 2))
    assert not pages.fit_growth(x, linear.tolist(), 1.0).is_finding
    assert pages.fit_growth(x, linear.tolist(), 0.0).is_finding  # of what should stay flat
    growth = pages.fit_growth(x, sorting.tolist(), 1.0)
    assert growth.is_finding
    assert growth.exponent == pytest.approx(1.2, abs=0.02)
    assert pages.fit_growth(x, square.tolist(), 1.0).exponent == pytest.approx(2, abs=0.02)
    wild = [[1, 10, 1e2, 1e3, 1e4], [1, 10, 1e2, 3e3, 1e5]]  # rounds that do not agree show nothing
    assert not pages.fit_growth(x, wild, 1.0).is_finding


def test_only_the_upper_half_counts(pages):
    x = [1, 10, 100, 1000, 10_000, 100_000]
    late = [[5, 5, 5, 1e2, 1e4, 1e6]]
    assert pages.fit_growth(x, late, 1.0).exponent == pytest.approx(2)
    early = [[1e-9, 1e-6, 1e-3, 10, 100, 1000]]
    assert pages.fit_growth(x, early, 1.0).exponent == pytest.approx(1)


def test_predictions_come_from_operations_or_else_from_the_middle_size(pages):
    outcome = pages.Outcome("batch", "one", [1, 2, 4], [[1, 2, 9]], [[10, 20, 40]], [1e9, 2e9, 4e9], [None] * 3, 1.0)
    assert outcome.predict_seconds(100) == pytest.approx([0.01, 0.02, 0.04])
    assert outcome.predict_mib() == [10, 20, 40]
    unknown = pages.Outcome("batch", "one", [1, 2, 4], [[1, 3, 9]], [[10, 20, 40]], [None] * 3, [5, 6, 7], 0.0)
    assert unknown.predict_seconds(100) == [1.5, 3, 6]
    assert unknown.predict_mib() == [5, 6, 7]


def test_the_work_of_tiles_is_that_of_their_windows(points, tmp_path):
    whole, cut = (points.cut_picture("onnxruntime:fp32", tile, tmp_path) for tile in (512, 128))
    assert (whole.x, cut.x) == (1, 16)
    assert cut.flops / whole.flops == pytest.approx(16 * (128 + 2 * 10) ** 2 / 512**2)  # it sees 10 pixels far
    assert cut.predicted_mib < whole.predicted_mib


SMALLEST = {
    "pixels": 24, "batch": 1, "tiles": 512, "blocks of compact": 1, "blocks of rrdbnet": 1, "frames": 3, "files": 2,
}  # fmt: skip


@pytest.mark.parametrize("curve", SMALLEST)
def test_each_point_is_measured(script, points, tmp_path, curve):
    series = script.choose([curve])
    made = set()
    for one in series:
        if one.prepare is not None and one.files not in made:
            one.prepare(SMALLEST[curve], tmp_path)
            made.add(one.files)
        point = points.measure_point(one.make(SMALLEST[curve], tmp_path))
        assert point.x > 0
        assert point.seconds
        assert min(point.seconds) > 0
        assert point.mib >= 0
    assert len({one.key for one in series}) == len(series) >= 2


def test_a_quick_run_of_one_curve_leaves_the_committed_pages_alone(script, monkeypatch, tmp_path):
    kept = {path: path.read_bytes() for path in (PAGES / "cost-curves.md", *(PAGES / "pictures").glob("cost-*.svg"))}
    monkeypatch.setattr(script, "list_series", lambda every=script.list_series: [every()[-2]])
    (series,) = script.list_series()
    assert series.key == "files/finished before"
    monkeypatch.setattr(sys, "argv", ["cost_curves.py", "--quick", "--out", str(tmp_path)])
    script.main()
    assert {path: path.read_bytes() for path in kept} == kept
    document = json.loads((tmp_path / "cost_curves.json").read_text())
    (measured,) = document["curves"]["files"]["series"]
    assert (measured["x"], len(measured["seconds"])) == ([10, 100], 1)
    assert document["curves"]["files"]["run"]["command"].startswith("python benchmarks/")
    page = (tmp_path / "cost_curves.md").read_text()
    assert "| finished before | 10 to 100 |" in page
    assert "(./cost-files.svg)" in page
    plot = (tmp_path / "cost-files.svg").read_text()
    assert ">finished before<" in plot
    assert ">files<" in plot

    (tmp_path / "cost_curves.md").unlink()
    monkeypatch.setattr(sys, "argv", ["cost_curves.py", "--pages", "--out", str(tmp_path)])
    script.main()
    assert (tmp_path / "cost_curves.md").read_text() == page
    assert (tmp_path / "cost-files.svg").read_text() == plot
