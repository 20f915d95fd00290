import json
import re

import pytest

from sr_deploy.bench.documents import describe_report, show_figure
from sr_deploy.bench.report import BenchReport
from sr_deploy.cli import main
from sr_deploy.cli.bench_tables import make_tables
from tests.unit.bench.conftest import DEVICE_TIMING


@pytest.fixture(scope="module")
def made(make_bundle, tmp_path_factory):
    """The folder with what `sr-deploy bench` wrote for a small bundle; `report.json` is what it printed."""
    import contextlib
    import io

    folder = tmp_path_factory.mktemp("deployments")
    bundle = make_bundle("compact-x1", folder)
    out = io.StringIO()
    words = ["bench", str(bundle.path), "--shape", "1x16x16", "--backend", "onnxruntime", "--seconds", "0.05", "--json"]
    files = [word for name in ("html", "markdown", "csv") for word in (f"--{name}", str(folder / f"report.{name}"))]
    with contextlib.redirect_stdout(out):
        assert main([*words, *files]) == 0
    (folder / "report.json").write_text(out.getvalue())
    return folder


@pytest.fixture(scope="module")
def report(made):
    return BenchReport.model_validate_json((made / "report.json").read_text())


def draw(report, width):
    from rich.console import Console

    console = Console(width=width, markup=False)
    with console.capture() as captured:
        for table in make_tables(report, width):
            console.print(table)
    return captured.get()


def test_json_is_the_report_alone(report):
    assert [run.shape for run in report.runs] == ["1x16x16"]
    assert report.command.startswith("sr-deploy bench /")
    assert report.command.endswith("compact-x1 --shape 1x16x16 --backend onnxruntime --seconds 0.05")
    assert {one.candidate for one in report.results} == {"torch:fp32+nchw", "onnxruntime:fp32"}


def test_files_are_written_beside(made, report):
    assert "<title>Benchmark: compact-x1</title>" in (made / "report.html").read_text()
    assert "## Input 1x16x16" in (made / "report.markdown").read_text()
    assert (made / "report.csv").read_text().count("\n") == 1 + len(report.results)


def test_the_table_says_what_was_measured(report):
    text = draw(report, 120)
    assert "compact-x1 x1, input 1x16x16" in text
    (row,) = [line for line in text.splitlines() if "torch:fp32+nchw" in line]
    assert "baseline" in row
    (row,) = [line for line in text.splitlines() if "onnxruntime:fp32" in line]
    graph = next(one for one in report.results if one.candidate == "onnxruntime:fp32")
    cells = [cell.strip() for cell in row.split("│")[1:-1]]
    assert re.fullmatch(r"[\d.]+ ms ±\d+ %", cells[1])
    assert float(cells[1].split()[0]) == pytest.approx(graph.median_ms, rel=0.005)  # three digits at least
    assert cells[4] == show_figure(graph.images_per_second)
    assert cells[6] == f"{graph.speedup:.2f}x ({graph.speedup_low:.2f}-{graph.speedup_high:.2f})"
    assert cells[10] == f"{graph.parity.psnr_db:.1f} dB"


@pytest.mark.parametrize(("width", "columns"), [(120, 11), (80, 6)])
def test_the_table_fits_the_terminal(report, width, columns):
    text = draw(report, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    (row,) = [line for line in text.splitlines() if "torch:fp32+nchw" in line]  # on one line
    assert row.count("│") == columns + 1
    assert "baseline" in row
    assert "equal" in row


@pytest.mark.parametrize("width", [80, 120])
def test_what_ran_on_a_gpu_has_a_second_table_that_fits(report, width):
    timing = DEVICE_TIMING.model_copy(update={"pipelined_images_per_second": 100.0})
    figures = {"device": "cuda:0", "device_memory_mib": 321.4, "device_timing": timing}
    results = tuple(
        one.model_copy(update=figures if one.candidate == "torch:fp32+nchw" else {}) for one in report.results
    )
    text = draw(report.model_copy(update={"results": results}), width)
    assert max(map(len, text.splitlines())) <= width
    below = text.partition("by the GPU's clock, input 1x16x16")[2]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in below.splitlines() if "ms" in line]
    assert [row[1:] for row in rows] == [["12.5 ms ±2 %", "1.25 ms", "10.0 ms ±1 %", "100", "321 MiB", "-"]]
    assert "GPU" not in draw(report, width)


def test_the_lines_below_name_machine_versions_and_command(report):
    text = "\n".join(describe_report(report))
    assert report.machine.cpu in text
    assert f"onnxruntime {report.versions['onnxruntime']}" in text
    assert f"command: {report.command}" in text
    assert f"1x16x16 (sha256 {report.runs[0].sha256[:12]}), {report.runs[0].rounds} interleaved rounds" in text


def test_what_is_missing_and_a_busy_machine_are_named(made):
    raw = json.loads((made / "report.json").read_text())
    raw["left_out"] = [
        {"candidate": name, "reason": f"{name} needs an NVIDIA GPU"} for name in ("tensorrt:fp32", "tensorrt:fp16")
    ]
    raw["runs"][0]["others_load"] = 1.31
    raw["results"][0]["parity"] |= {"verified": False, "psnr_db": 12.3}
    raw["results"][1]["steady"] = False
    lines = describe_report(BenchReport.model_validate(raw))
    assert "not timed: tensorrt:fp32, tensorrt:fp16: needs an NVIDIA GPU" in lines
    assert any(line.startswith("WARNING: other processes kept 1.3 processors busy") for line in lines)
    assert (
        f"WARNING: not steady when the warm-up's time was spent: {raw['results'][1]['candidate']} at 1x16x16" in lines
    )
    raw["runs"][0]["others_load"], raw["results"][1]["steady"] = 0.05, True
    raw["results"][0]["steady"] = True
    assert not any("WARNING" in line for line in describe_report(BenchReport.model_validate(raw)))


def test_compare_ends_with_3_beyond_the_bound_and_says_what(made, tmp_path, capsys):
    raw = json.loads((made / "report.json").read_text())
    for result in raw["results"]:
        result["spread_ms"] = 0.0
    (tmp_path / "old.json").write_text(json.dumps(raw))
    raw["results"][0]["median_ms"] *= 1.08
    (tmp_path / "new.json").write_text(json.dumps(raw))
    words = ["bench", "--compare", str(tmp_path / "old.json"), str(tmp_path / "new.json")]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "+8.0 %" in text
    assert "no regression" in text
    assert main([*words, "--max-slowdown", "5"]) == 3
    text = capsys.readouterr().out
    assert "slower REGRESSION" in text
    assert "1 regression\n" in text
    assert main([*words, "--max-slowdown", "5", "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert [change["regression"] for change in document["changes"]] == [True, False]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bench"], "no bundle in deployments; make one with: sr-deploy export"),
        (["bench", "--shape", "16x16"], "'16x16' is not a shape; give NxHxW"),
        (["bench", "--backend", "torch:fp4"], "unknown precision 'fp4' in 'torch:fp4'"),
        (["bench", "--backend", "torch+jit"], "unknown variant 'jit' in 'torch+jit'"),
        (["bench", "--compare", "old.json", "new.json"], "old.json does not exist"),
        (["bench", "--compare", "old.json", "new.json", "--shape", "1x8x8"], "--compare measures nothing"),
        (["bench", "--compare", "old.json", "new.json", "--lock-clock", "1500"], "--compare measures nothing"),
        (["bench", "--max-slowdown", "5"], "--max-slowdown belongs to --compare OLD NEW"),
    ],
)
def test_mistakes_are_one_line_and_1(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
