"""The benchmark's page in a real browser: everything is drawn, and nothing is fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from sr_deploy.arch.spec import ArchSpec
from sr_deploy.bench.report import read_report
from sr_deploy.cli import main
from sr_deploy.deploy import export_bundle
from sr_deploy.export.spec import load_spec

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SHAPES = ("1x16x16", "1x32x32", "2x16x16")
CANDIDATES = ("torch:fp32+nchw", "torch:bf16", "onnxruntime:fp32")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, write_network):
    spec = ArchSpec(architecture="compact", scale=2, features=8, blocks=1)
    folder = tmp_path_factory.mktemp("bench")
    write_network(folder / "little.safetensors", spec)
    return export_bundle(folder / "little.safetensors", load_spec(), folder / "bundle", "none").bundle.path


@pytest.fixture(scope="module")
def page(bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    words = [word for shape in SHAPES for word in ("--shape", shape)]
    words += [word for name in CANDIDATES[1:] for word in ("--backend", name)]
    assert main(["bench", str(bundle), *words, "--seconds", "0.1", "--html", str(folder / "bench.html")]) == 0
    return folder / "bench.html"


def test_tables_and_plots_are_drawn(opened_alone, page):
    browser = opened_alone(page)
    assert browser.title == "Benchmark: bundle"
    assert browser.find_element("css selector", ".verdict").text == "all verified"
    tables = browser.find_elements("css selector", "table")
    assert len(tables) == len(SHAPES)
    for table in tables:
        names = [row.find_element("css selector", "td").text for row in table.find_elements("css selector", "tbody tr")]
        assert sorted(names) == sorted(CANDIDATES)
    latency, throughput, *bars = browser.find_elements("css selector", "svg")
    assert latency.accessible_name == "Latency against size, batch 1"
    assert throughput.accessible_name == "Throughput against batch, 16x16"
    assert [one.accessible_name for one in bars] == [
        f"{what} at {shape}" for shape in SHAPES for what in ("Share of the roofline", "Peak memory")
    ]
    for plot in (latency, throughput):
        frame, points = plot.rect, [one.rect for one in plot.find_elements("css selector", "circle")]
        assert len(points) == 2 * len(CANDIDATES)
        for point in points:  # each is on the picture
            assert frame["x"] <= point["x"] <= frame["x"] + frame["width"]
            assert frame["y"] <= point["y"] <= frame["y"] + frame["height"]
        assert len({round(point["x"]) for point in points}) == 2
    for one in bars:
        assert all(bar.rect["width"] > 0 for bar in one.find_elements("css selector", "rect"))


def test_a_scenario_is_run_and_names_no_folder_of_this_machine(bundle, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import run_all

    arguments = run_all.BenchArguments(shapes=("1x16x16",), backends=("onnxruntime:fp32",), seconds=0.05)
    run_all.run_scenario("little", run_all.Scenario(description="x", minutes=1, bench=arguments), bundle, tmp_path)
    report = read_report(tmp_path / "little.json")
    assert report.command == "sr-deploy bench bundle --shape 1x16x16 --backend onnxruntime:fp32 --seconds 0.05"
    assert "## Input 1x16x16" in (tmp_path / "little.md").read_text()
    assert str(bundle.parent) not in (tmp_path / "little.json").read_text()
