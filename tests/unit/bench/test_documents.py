import csv
import io
import json
import re
from pathlib import Path

import pytest

from sr_deploy.bench.documents import (
    describe_conditions,
    describe_fixed_shapes,
    describe_report,
    make_csv,
    make_markdown,
    show_figure,
    show_share,
)
from sr_deploy.bench.page import render_page
from sr_deploy.bench.report import BenchReport, HostCopies, read_report
from sr_deploy.errors import InputError
from sr_deploy.measure.clocks import ClockLock
from sr_deploy.measure.watch import Conditions, GpuConditions

pytestmark = pytest.mark.xdist_group("bench")  # one process measures for all

ROOT = Path(__file__).parents[3]
SCHEMA = ROOT / "docs" / "bench-report.schema.json"
RESULTS = ROOT / "benchmarks" / "results"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *((0.064, "0.0640"), (0.0, "0.00"), (0.18859, "0.189"), (8.3, "8.30"), (9.994, "9.99"), (9.996, "10.0")),
        *((12.34, "12.3"), (99.96, "100"), (120.4, "120"), (15625.3, "15625")),
    ],
)
def test_three_digits_of_a_figure_are_shown_at_least(value, shown):
    assert show_figure(value) == shown


def test_markdown_has_a_row_for_each_candidate_and_says_how(report):
    page = make_markdown(report)
    assert page.startswith("# compact-x4 x4\n\n## Input 2x24x16\n")
    for result in report.results:
        (row,) = [line for line in page.splitlines() if line.startswith(f"| {result.candidate} |")]
        assert f"| {show_figure(result.images_per_second)} |" in row
        assert show_share(result) in row
    assert f"- command: {report.command} (" in page
    assert report.runs[0].sha256[:12] in page
    assert f"fp32 {report.peaks[0].matrix_gflops['fp32']:.0f}" in page


def test_csv_has_every_figure_in_a_column(report):
    rows = list(csv.DictReader(io.StringIO(make_csv(report))))
    assert [row["candidate"] for row in rows] == [one.candidate for one in report.results]
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


GPU_CELLS = ["12.5 ms ±2 %", "1.25 ms", "10.0 ms ±1 %", "200", "321 MiB", "1.50 ms"]
GPU_HEADER = ["candidate", "on the GPU", "enqueue", "3 in flight", "images/s", "GPU memory", "copies"]


def test_figures_of_a_gpu_have_a_table_of_their_own(gpu_report, report):
    lines = make_markdown(gpu_report).splitlines()
    place = lines.index(f"| {' | '.join(GPU_HEADER)} |")
    assert lines[place + 2 : place + 4] == [f"| onnxruntime:fp32 cuda:0 | {' | '.join(GPU_CELLS)} |", ""]
    page = render_page(gpu_report)
    assert "".join(f"<td>{one}</td>" for one in GPU_CELLS) in page.replace(" class=number", "")
    assert page.count("By the GPU's clock") == 1
    (told,) = [line for line in lines if line.startswith("- on a GPU each candidate takes turns with the baseline")]
    assert "its calls last 3.0 s or more" in told
    (copies,) = [line for line in lines if line.startswith("- host copies of onnxruntime:fp32 at 2x24x16: 5.0 MB, ")]
    assert copies.endswith("1.50 ms, not within the time above; 0.750 ms of it on the way, through pinned memory")
    for plain in (make_markdown(report), render_page(report)):
        assert "in flight" not in plain
        assert "GPU's clock" not in plain


def test_csv_has_the_figures_of_a_gpu(gpu_report):
    rows = {row["candidate"]: row for row in csv.DictReader(io.StringIO(make_csv(gpu_report)))}
    assert rows["onnxruntime:fp32"]["device_timing.pipelined_images_per_second"] == "200.0"
    assert rows["torch:fp32+nchw"]["device_timing.pipelined_images_per_second"] == ""


def test_the_range_of_a_gpus_clock_is_shown(report):
    gpu = GpuConditions(
        name="H200",
        clock_mhz=1800,
        clock_most_mhz=1980,
        clock_lowest_mhz=1635,
        clock_highest_mhz=1980,
        power_watts=None,
        temperature_c=None,
        throttled=0,
    )
    seen = Conditions(cpu_mhz=None, cpu_lowest_mhz=None, cpu_throttled=None, cpu_watts=None, gpus=(gpu,))
    assert describe_conditions(report.runs[0].model_copy(update={"conditions": seen})) == [
        "clocks at 2x24x16: H200 1800 MHz (1635 to 1980 MHz while it worked)"
    ]


@pytest.mark.parametrize(
    ("refused", "kept", "lines"),
    [
        (None, None, ["the GPU's clock was locked at 1500 MHz"]),
        ("no permission", None, ["WARNING: the GPU's clock was not locked at 1500 MHz: no permission"]),
        (
            None,
            "it is lost",
            [
                "the GPU's clock was locked at 1500 MHz",
                "WARNING: it is locked still (it is lost); let it go with: nvidia-smi --reset-gpu-clocks",
            ],
        ),
    ],
)
def test_whether_the_clock_was_locked_is_said(report, refused, kept, lines):
    locked = report.model_copy(update={"clock_lock": ClockLock(mhz=1500, refused=refused, kept=kept)})
    assert [line for line in describe_report(locked) if "locked" in line] == lines
    assert not [line for line in describe_report(report) if "locked" in line]


def test_reports_of_version_2_are_read(report, tmp_path):
    old = read_report(RESULTS / "photo.json")  # measured before version 3
    assert (old.schema_version, old.clock_lock) == (2, None)
    assert len(old.results) == 21
    assert all(one.device_timing is None for one in old.results)
    document = json.loads(report.model_dump_json()) | {"schema_version": 2}
    for one in document["results"]:
        del one["device_timing"]
    del document["clock_lock"]
    (tmp_path / "old.json").write_text(json.dumps(document))
    assert read_report(tmp_path / "old.json") == report.model_copy(update={"schema_version": 2})


def test_a_report_is_read_back_and_anything_else_refused(report, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(report.model_dump_json())
    assert read_report(path) == report
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"schema_version": 1}))
    with pytest.raises(InputError, match=r"report\.json is not .* version 3 \(schema_version: "):
        read_report(path)


def test_the_schema_that_is_published_is_the_one_that_is_written():
    assert json.loads(SCHEMA.read_text()) == BenchReport.model_json_schema(mode="serialization"), (
        "run: python benchmarks/run_all.py --pages"
    )
