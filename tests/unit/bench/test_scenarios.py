import argparse
import importlib.util
import json
import sys
from pathlib import Path

import pytest

from sr_deploy.bench.choices import parse_candidate
from sr_deploy.bundle import parse_shape
from sr_deploy.errors import RecipeError
from sr_deploy.gpus import visible_gpus
from sr_deploy.measure import machine

pytestmark = pytest.mark.xdist_group("bench")  # one process measures for all

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def run_all(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    location = importlib.util.spec_from_file_location("run_all", BENCHMARKS / "run_all.py")
    module = importlib.util.module_from_spec(location)
    monkeypatch.setitem(sys.modules, "run_all", module)  # where pydantic looks for what fields are annotated with
    location.loader.exec_module(module)
    yield module
    for name in ("agreement", "bench_pages", "pages"):
        sys.modules.pop(name)


def options_of(script, monkeypatch):
    """What a script's parser knows, without running it."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    known = set()
    monkeypatch.setattr(argparse.ArgumentParser, "add_argument", lambda _, *names, **__: known.update(names))
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", lambda *_: sys.exit())
    location = importlib.util.spec_from_file_location("__main__", BENCHMARKS / script)
    with pytest.raises(SystemExit):
        location.loader.exec_module(importlib.util.module_from_spec(location))
    return known


def test_each_scenario_can_run(run_all, monkeypatch):
    scenarios = run_all.read_scenarios()
    assert set(scenarios) == {
        "photo", "photo-12mp", "thumbnails", "video-720p", "video-1080p", "training-step", "degradation",
        "cost-curves",
    }  # fmt: skip
    for scenario in scenarios.values():
        if scenario.bench is not None:
            assert [str(parse_shape(one)) for one in scenario.bench.shapes] == list(scenario.bench.shapes)
            assert [str(parse_candidate(one)) for one in scenario.bench.backends] == list(scenario.bench.backends)
        else:
            script, *words = scenario.script.words
            options = {word for word in words if word.startswith("--")}
            assert options | {"--out"} <= options_of(script, monkeypatch), script


def test_commands_are_what_a_user_would_type(run_all):
    scenarios = run_all.read_scenarios()
    command = run_all.make_command(scenarios["thumbnails"], "demo", Path("out"))
    assert command[1:8] == ["-m", "sr_deploy", "bench", "demo", "--json", "--seconds", "3"]
    assert command[8:12] == ["--shape", "1x96x96", "--shape", "4x96x96"]
    assert command[-2:] == ["--backend", "openvino:int8"]
    command = run_all.make_command(scenarios["photo-12mp"], "small-x2", Path("out"))
    assert command[1:4] == [str(BENCHMARKS / "upscale_folder.py"), "--model", "small-x2"]
    assert command[-2:] == ["--out", "out"]


def test_scenarios_with_a_network_of_their_own_need_no_model(run_all, monkeypatch, tmp_path, capsys):
    own = [name for name, one in run_all.read_scenarios().items() if not one.needs_model]
    assert own == ["cost-curves", "degradation", "training-step", "video-1080p", "video-720p"]
    run = []
    monkeypatch.setattr(run_all.subprocess, "run", lambda command, **_: run.append(command))
    monkeypatch.setattr(sys, "argv", ["run_all.py", "--only", "cost-curves", "--out", str(tmp_path)])
    run_all.main()
    assert run == [[sys.executable, str(BENCHMARKS / "cost_curves.py"), "--out", str(tmp_path)]]
    monkeypatch.setattr(sys, "argv", ["run_all.py", "--only", "thumbnails", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        run_all.main()
    assert "which MODEL?" in capsys.readouterr().err


@pytest.mark.parametrize("able", [True, False])
def test_torch_in_bf16_takes_part_where_it_has_instructions(run_all, monkeypatch, able):
    monkeypatch.setattr(machine, "has_multiplier", lambda precision: able)
    command = run_all.make_command(run_all.read_scenarios()["photo"], "demo", Path("out"))
    fast = able or bool(visible_gpus())
    assert ("torch:bf16" in command, "torch:bf16+compile" in command) == (fast, fast)
    assert {"torch:fp32", "torch:fp32+compile", "openvino:bf16"} <= set(command)


def test_two_runs_agree_or_say_where_not(run_all, with_results, tmp_path, monkeypatch):
    def report_of(torch_ms, graph_ms):
        return with_results(
            torch_fp32_nchw={"median_ms": torch_ms, "spread_ms": 1.0},
            onnxruntime_fp32={"median_ms": graph_ms, "spread_ms": 1.0},
            onnxruntime_fp32_fixed={"median_ms": graph_ms + 1, "spread_ms": 1.0},
        )

    agreement = sys.modules["agreement"]
    kept = agreement.find_agreement("photo", report_of(20, 30), report_of(22, 30))
    assert (kept.medians, kept.pairs, kept.apart, kept.flips) == (3, 3, 2, ())
    assert (kept.median_change_percent, kept.greatest_change_percent) == (0, pytest.approx(10))

    (tmp_path / "again").mkdir()
    (tmp_path / "photo.json").write_text(report_of(20, 30).model_dump_json())
    (tmp_path / "again" / "photo.json").write_text(report_of(40, 30).model_dump_json())
    page = tmp_path / "benchmarking.md"
    page.write_text("<!-- agreement -->\nstale\n<!-- end of agreement -->\n")
    monkeypatch.setattr(agreement, "PAGE", page)
    agreement.write_agreement(tmp_path, tmp_path / "again", ["photo", "thumbnails"])
    text = page.read_text()
    assert "| photo | 3 | 3 | 2 | 2 | 0.0 % (100.0 %) |" in text
    assert "- photo, 2x24x16: torch:fp32+nchw was faster than onnxruntime:fp32, and is slower now" in text
    assert "stale" not in text
    assert len(json.loads((tmp_path / "agreement.json").read_text())["scenarios"]) == 1


def test_only_what_is_asked_for_and_known(run_all):
    scenarios = run_all.read_scenarios()
    assert list(run_all.choose(scenarios, ["photo", "degradation"])) == ["degradation", "photo"]
    assert run_all.choose(scenarios, []) == scenarios
    with pytest.raises(SystemExit, match="named picture; known: cost-curves, degradation, photo"):
        run_all.choose(scenarios, ["picture"])


def test_a_scenario_is_of_one_kind(run_all, tmp_path):
    (tmp_path / "both.toml").write_text('description = "x"\nminutes = 1\n')
    with pytest.raises(RecipeError, match=r"a scenario has either \[bench\] or \[script\]"):
        run_all.read_scenarios(tmp_path)


def test_pages_are_rewritten_from_the_results(run_all, report, tmp_path):
    pages = sys.modules["bench_pages"]
    results, shape = tmp_path / "results", pages.README_SHAPE
    results.mkdir()
    (tmp_path / "docs").mkdir()
    measured = report.model_copy(
        update={
            "runs": tuple(run.model_copy(update={"shape": shape}) for run in report.runs),
            "results": tuple(one.model_copy(update={"shape": shape}) for one in report.results),
        }
    )
    (results / "photo.json").write_text(measured.model_dump_json())
    (tmp_path / "README.md").write_text("# a\n<!-- table -->\nstale\n<!-- end of table -->\nend\n")
    page = tmp_path / "docs" / "benchmarking.md"
    page.write_text("# b\n<!-- results -->\nstale\n<!-- end of results -->\nend\n")
    pages.update_pages({"photo": "A photograph", "video-720p": "A frame"}, tmp_path, results)
    readme, text = (tmp_path / "README.md").read_text(), page.read_text()
    for written in (readme, text):
        assert "stale" not in written
        assert written.endswith("-->\nend\n")
        assert "; `sr-deploy bench`" in written
        assert measured.machine.cpu in written
    assert [line.split(" | ")[0] for line in readme.splitlines() if line.startswith("| ")][1:] == [
        f"| {one.candidate.split(':')[0]}" for one in measured.results
    ]
    assert "| fp32+nchw |" in readme
    pages.write_tables(["photo", "video-720p"], results)
    assert (results / "photo.md").read_text().startswith("# compact-x4 x4\n\n## Input 1x512x512\n")
    assert not (results / "video-720p.md").exists()
    assert "### photo\n\nA photograph. [All figures](../benchmarks/results/photo.md).\n\nInput 1x512x512:" in text
    assert "video-720p" not in text  # it was not measured
    schema = json.loads((tmp_path / "docs" / "bench-report.schema.json").read_text())
    assert schema["title"] == "BenchReport"
    (tmp_path / "README.md").write_text("# no place\n")
    with pytest.raises(SystemExit, match=r"README\.md has no place for the table 'table'"):
        pages.update_pages({"photo": "A photograph"}, tmp_path, results)
