import json

import pytest

from sr_deploy.bench.report import BenchReport
from sr_deploy.cli import main
from sr_deploy.cli.bench import describe_report, make_tables


@pytest.fixture(scope="module")
def document(make_bundle, tmp_path_factory):
    """What `sr-deploy bench --json` prints for a small bundle, as text."""
    import contextlib
    import io

    bundle = make_bundle("compact-x1", tmp_path_factory.mktemp("deployments"))
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(["bench", str(bundle.path), "--shape", "1x16x16", "--backend", "onnxruntime", "--json"])
    assert code == 0
    return out.getvalue()


def test_json_is_the_report_alone(document):
    report = BenchReport.model_validate(json.loads(document))
    assert report.shapes == ("1x16x16",)
    assert report.command.startswith("sr-deploy bench /")
    assert report.command.endswith("compact-x1 --shape 1x16x16 --backend onnxruntime")
    assert {one.contender for one in report.results} == {"torch:fp32", "onnxruntime:fp32"}


def test_the_table_says_what_was_measured(document):
    from rich.console import Console

    report = BenchReport.model_validate(json.loads(document))
    console = Console(width=140, markup=False)
    with console.capture() as captured:
        for table in make_tables(report):
            console.print(table)
    text = captured.get()
    assert "compact-x1 x1, input 1x16x16" in text
    (row,) = [line for line in text.splitlines() if "torch:fp32" in line]
    assert "baseline" in row
    (row,) = [line for line in text.splitlines() if "onnxruntime:fp32" in line]
    graph = next(one for one in report.results if one.contender == "onnxruntime:fp32")
    assert " ms " in row
    assert row.split("│")[2].strip().startswith(f"{graph.median_ms:.9f}"[:3])
    assert f"{graph.speedup:.2f}x ({graph.speedup_low:.2f}-{graph.speedup_high:.2f})" in row
    assert f"{graph.parity.psnr_db:.1f} dB" in row


def test_the_lines_below_name_machine_versions_and_command(document):
    report = BenchReport.model_validate(json.loads(document))
    text = "\n".join(describe_report(report))
    assert report.machine.cpu in text
    assert f"onnxruntime {report.versions['onnxruntime']}" in text
    assert f"command: {report.command}" in text
    assert f"1x16x16: {report.results[0].rounds} interleaved rounds" in text


def test_what_is_missing_and_a_busy_machine_are_named(document):
    raw = json.loads(document)
    raw["left_out"] = [
        {"contender": name, "reason": f"{name} needs an NVIDIA GPU"} for name in ("tensorrt:fp32", "tensorrt:fp16")
    ]
    for result in raw["results"]:
        result["others_load"] = 1.31
    raw["results"][0]["parity"] |= {"verified": False, "psnr_db": 12.3}
    lines = describe_report(BenchReport.model_validate(raw))
    assert "not timed: tensorrt:fp32, tensorrt:fp16: needs an NVIDIA GPU" in lines
    assert any(line.startswith("WARNING: other processes kept 1.3 processors busy") for line in lines)
    quiet = BenchReport.model_validate(json.loads(document) | {"left_out": []})
    quiet = quiet.model_copy(
        update={"results": tuple(one.model_copy(update={"others_load": 0.05}) for one in quiet.results)}
    )
    assert not any("WARNING" in line for line in describe_report(quiet))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bench"], "no bundle in deployments; make one with: sr-deploy export"),
        (["bench", "--shape", "16x16"], "'16x16' is no shape; give NxHxW"),
        (["bench", "--backend", "torch:fp8"], "unknown precision 'fp8' in 'torch:fp8'"),
    ],
)
def test_mistakes_are_one_line_and_1(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
