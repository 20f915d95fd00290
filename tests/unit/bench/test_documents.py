import csv
import io
import json
import re
from pathlib import Path

import pytest

from sr_deploy.bench.documents import (
    describe_conditions,
    describe_fixed_shapes,
    make_csv,
    make_markdown,
    show_figure,
    show_share,
)
from sr_deploy.bench.page import render_page
from sr_deploy.bench.report import BenchReport, HostCopies, read_report
from sr_deploy.errors import InputError
from sr_deploy.measure.watch import Conditions, GpuConditions

pytestmark = pytest.mark.xdist_group("bench")  # one process measures for all

SCHEMA = Path(__file__).parents[3] / "docs" / "bench-report.schema.json"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *((0.064, "0.0640"), (0.0, "0.00"), (0.18859, "0.189"), (8.3, "8.30"), (9.994, "9.99"), (9.996, "10.0")),
        *((12.34, "12.3"), (99.96, "100"), (120.4, "120"), (15625.3, "15625")),
    ],
)
def test_three_digits_of_a_figure_are_shown_at_least(value, shown):
    assert show_figure(value) == shown


def test_markdown_has_a_row_for_each_contender_and_says_how(report):
    page = make_markdown(report)
    assert page.startswith("# compact-x4 x4\n\n## Input 2x24x16\n")
    for result in report.results:
        (row,) = [line for line in page.splitlines() if line.startswith(f"| {result.contender} |")]
        assert f"| {show_figure(result.images_per_second)} |" in row
        assert show_share(result) in row
    assert f"- command: {report.command} (" in page
    assert report.runs[0].sha256[:12] in page
    assert f"fp32 {report.peaks[0].matrix_gflops['fp32']:.0f}" in page


def test_csv_has_every_figure_in_a_column(report):
    rows = list(csv.DictReader(io.StringIO(make_csv(report))))
    assert [row["contender"] for row in rows] == [one.contender for one in report.results]
    for row, result in zip(rows, report.results, strict=True):
        assert float(row["median_ms"]) == result.median_ms
        assert float(row["cold_start.load_ms"]) == result.cold_start.load_ms
        assert float(row["end_to_end.median_ms"]) == result.end_to_end.median_ms
        assert row["parity.verified"] == str(result.parity.verified)
        assert row["rewrites"] == " ".join(result.rewrites)


def test_the_page_shows_all_figures_and_fetches_nothing(report, with_results):
    wider = report.model_copy(
        update={
            "runs": (
                *report.runs,
                *(report.runs[0].model_copy(update={"shape": one}) for one in ("2x48x32", "4x24x16")),
            ),
            "results": (
                *report.results,
                *(
                    one.model_copy(update={"shape": shape})
                    for shape in ("2x48x32", "4x24x16")
                    for one in report.results
                ),
            ),
        }
    )
    page = render_page(wider)
    assert "http" not in page.replace("http://www.w3.org", "")
    assert not re.search(r"(?:src|href|url)\s*[=(]", page)
    assert page.count("<svg") == 2 + 3 * 2  # latency, throughput; roofline and memory of three shapes
    for title in ("Latency against size, batch 2", "Throughput against batch, 24x16", "Share of the roofline"):
        assert title in page
    assert "all verified" in page
    assert page.count("<circle") == 2 * 2 * len(report.results)  # two places in each of the two plots
    plain = render_page(report)
    assert "Latency against size" not in plain
    parity = report.results[0].parity.model_copy(update={"verified": False})
    assert "1 not verified" in render_page(with_results(torch_fp32_nchw={"parity": parity}))


def test_what_dynamic_shapes_cost_stands_beside_the_noise(with_results):
    report = with_results(
        onnxruntime_fp32={"median_ms": 12.0, "spread_ms": 0.3},
        onnxruntime_fp32_fixed={"median_ms": 10.0, "spread_ms": 0.2},
    )
    assert describe_fixed_shapes(report) == ["dynamic shapes: onnxruntime:fp32 takes +20.0 % at 2x24x16 (noise 5.0 %)"]


def test_a_machine_that_slowed_down_is_named(report):
    gpu = GpuConditions(
        name="H200", clock_mhz=1800, clock_most_mhz=1980, power_watts=650, temperature_c=None, throttled=0.25
    )
    seen = Conditions(cpu_mhz=3000, cpu_lowest_mhz=2500, cpu_throttled=2, cpu_watts=95, gpus=(gpu,))
    assert describe_conditions(report.runs[0].model_copy(update={"conditions": seen})) == [
        "clocks at 2x24x16: CPU 3000 MHz, 2500 at the lowest, 95 W, H200 1800 MHz 650 W",
        "WARNING: heat slowed the CPU down 2 times at 2x24x16",
        "WARNING: heat or power held H200 back 25 % of the time",
    ]


def test_host_copies_stand_apart(with_results):
    apart = with_results(onnxruntime_fp32={"host_copies": HostCopies(bytes=5_000_000, median_ms=1.5)})
    within = with_results(onnxruntime_fp32={"host_copies": HostCopies(bytes=5_000_000, median_ms=None)})
    line = "host copies of onnxruntime:fp32 at 2x24x16: 5.0 MB, "
    assert f"{line}1.50 ms, not within the time above" in make_markdown(apart)
    assert f"{line}within the time above" in make_markdown(within)


def test_a_report_is_read_back_and_anything_else_refused(report, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(report.model_dump_json())
    assert read_report(path) == report
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"schema_version": 1}))
    with pytest.raises(InputError, match=r"report\.json is no report of schema version 2 \(schema_version: "):
        read_report(path)


def test_the_schema_that_is_published_is_the_one_that_is_written():
    assert json.loads(SCHEMA.read_text()) == BenchReport.model_json_schema(mode="serialization"), (
        "run: python benchmarks/run_all.py --pages"
    )
