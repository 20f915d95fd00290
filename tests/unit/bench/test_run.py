import importlib
import io
import json

import numpy as np
import pytest

from sr_deploy.backends import BackendChoice
from sr_deploy.bench.load import LoadSample, others_load, sample_load
from sr_deploy.bench.report import BenchReport, BenchResult, Parity
from sr_deploy.bench.run import bench_model, choose_contenders, run_rounds, sort_results
from sr_deploy.bench.statistics import Schedule
from sr_deploy.bench.worker import serve
from sr_deploy.bundle import Shape
from sr_deploy.errors import BackendError, ShapeError
from sr_deploy.files import sha256_of
from sr_deploy.model import open_model
from sr_deploy.trt import visible_gpus

without_gpu = pytest.mark.skipif(bool(visible_gpus()), reason="this machine has an NVIDIA GPU")


@pytest.fixture(scope="module")
def bundle(make_bundle, tmp_path_factory):
    return make_bundle("compact-x4", tmp_path_factory.mktemp("bench"), fp16=True)


@pytest.fixture(scope="module")
def report(bundle):
    return bench_model(
        bundle.path,
        shapes=[Shape(2, 24, 16)],
        choices=[BackendChoice("onnxruntime"), BackendChoice("tensorrt", "fp16")],
        seconds_each=0.05,
        threads=1,
        command="sr-deploy bench",
    )


def make_result(contender, median_ms, verified):
    return BenchResult(
        contender=contender,
        backend_version="1",
        device="cpu",
        shape="1x8x8",
        arrays="host",
        calls=1,
        rounds=1,
        median_ms=median_ms,
        p95_ms=median_ms,
        images_per_second=1,
        input_megapixels_per_second=1,
        output_megapixels_per_second=1,
        peak_memory_mib=1,
        library_memory_mib=1,
        device_memory_mib=None,
        speedup=1,
        speedup_low=1,
        speedup_high=1,
        others_load=None,
        parity=Parity(max_abs=0, psnr_db=None, changed_8bit=0, verified=verified),
    )


class Recorder:
    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def take_turn(self, calls, primed):
        self.calls.append((self.name, calls, primed))
        return [float(len(self.calls))] * calls


def test_contenders_take_turns():
    seen, rounds = [], []
    contenders = [Recorder(name, seen) for name in "ABC"]
    turns = run_rounds(contenders, Schedule(2, (1, 2, 3), (False, True, False)), rounds.append)
    assert seen == [("A", 1, False), ("B", 2, True), ("C", 3, False)] * 2
    assert turns == [[[1.0], [4.0]], [[2.0] * 2, [5.0] * 2], [[3.0] * 3, [6.0] * 3]]
    assert rounds == [1, 2]


def test_what_is_not_verified_is_never_first():
    results = [make_result("wrong", 1.0, False), make_result("slow", 9.0, True), make_result("fast", 2.0, True)]
    assert [one.contender for one in sort_results(results)] == ["fast", "slow", "wrong"]


def test_the_report_names_where_what_and_how(report, bundle):
    assert report.schema_version == 1
    assert report.command == "sr-deploy bench"
    assert report.model == "compact-x4"
    assert report.model_sha256 == sha256_of(bundle.reference)
    assert (report.reference, report.baseline) == ("torch:fp32", "torch:fp32")
    assert (report.scale, report.channels, report.shapes, report.threads) == (4, 3, ("2x24x16",), 1)
    assert report.machine.cores >= 1
    assert {"torch", "onnxruntime"} <= set(report.versions)
    assert report.measured_at.startswith("20")
    assert BenchReport.model_validate_json(report.model_dump_json()) == report


def test_the_figures_fit_each_other(report):
    by_name = {one.contender: one for one in report.results}
    assert set(by_name) == {"torch:fp32", "onnxruntime:fp32"}
    assert report.results[0].median_ms <= report.results[1].median_ms
    baseline, graph = by_name["torch:fp32"], by_name["onnxruntime:fp32"]
    assert (baseline.speedup, baseline.speedup_low, baseline.speedup_high) == (1, 1, 1)
    assert baseline.parity.max_abs == 0
    assert (baseline.rewrites, graph.rewrites) == ((), ("nearest_skip", "prelu"))
    assert graph.parity.verified
    assert 0 < graph.parity.max_abs <= 1e-5
    assert graph.speedup_low <= graph.speedup <= graph.speedup_high
    for one in report.results:
        assert one.rounds >= 5
        assert one.calls >= one.rounds
        assert one.p95_ms >= one.median_ms > 0
        assert one.images_per_second == pytest.approx(2000 / one.median_ms)
        assert one.input_megapixels_per_second == pytest.approx(2 * 24 * 16 / 1e3 / one.median_ms)
        assert one.output_megapixels_per_second == pytest.approx(16 * one.input_megapixels_per_second)
        assert one.arrays == "host"
        assert one.device_memory_mib is None
        assert one.peak_memory_mib > one.library_memory_mib > 10
    # torch alone is more than ONNX Runtime with everything it needs: each has its own process
    assert baseline.library_memory_mib > graph.library_memory_mib + 50


@without_gpu
def test_contenders_that_cannot_run_are_named_with_the_reason(report):
    (missing,) = report.left_out
    assert missing.contender == "tensorrt:fp16"
    assert "needs an NVIDIA GPU" in missing.reason


@without_gpu
def test_left_to_itself_it_takes_all_that_runs(bundle):
    running, left_out = choose_contenders(open_model(bundle.path), None)
    names = [str(choice) for choice in running]
    assert names[0] == "torch:fp32"
    assert {"torch:bf16", "onnxruntime:fp32", "onnxruntime:fp16", "openvino:fp32"} <= set(names)
    missing = {one.contender: one.reason for one in left_out}
    assert "--backend torch:fp16" in missing["torch:fp16"]
    assert {"tensorrt:fp32", "tensorrt:fp16", "tensorrt-rtx:fp32", "tensorrt-rtx:fp16"} <= set(missing)
    assert not any("int8" in name for name in missing)  # it has no such graph: nobody misses it
    asked, _ = choose_contenders(open_model(bundle.path), [BackendChoice("torch", "fp16")])
    assert [str(choice) for choice in asked] == ["torch:fp32", "torch:fp16"]


def test_a_foreign_graph_is_timed_against_onnxruntime(exported):
    path = exported("compact-x2-gray").path
    report = bench_model(
        path, shapes=[Shape(1, 8, 8)], choices=[BackendChoice("openvino")], seconds_each=0.05, threads=1
    )
    assert report.baseline == "onnxruntime:fp32"
    assert report.reference == "onnxruntime:fp32, graph as written"
    assert {one.contender for one in report.results} == {"onnxruntime:fp32", "openvino:fp32"}
    assert all(one.parity.verified for one in report.results)


def test_a_shape_that_the_network_does_not_take_is_an_error(make_bundle, tmp_path):
    bundle = make_bundle("rrdbnet-x2", tmp_path)
    with pytest.raises(ShapeError, match="multiples of 2, not 7x8"):
        bench_model(bundle.path, shapes=[Shape(1, 7, 8)], choices=[], seconds_each=0.05)


def test_a_contender_that_fails_does_not_take_the_others_with_it(exported, make_bundle, tmp_path):
    bundle = make_bundle("compact-x1", tmp_path, graph=exported("rrdbnet-x2").path)  # takes even sides only
    report = bench_model(bundle.path, shapes=[Shape(1, 7, 9)], choices=[BackendChoice("openvino")], seconds_each=0.05)
    assert [one.contender for one in report.results] == ["torch:fp32"]
    assert [one.contender for one in report.left_out] == ["openvino:fp32 at 1x7x9"]


def test_without_a_baseline_there_is_no_table(bundle, monkeypatch):
    run = importlib.import_module("sr_deploy.bench.run")  # as an attribute, `sr_deploy.bench` is the function
    monkeypatch.setattr(run, "why_not_runnable", lambda *_: "torch:fp32 needs torch")
    with pytest.raises(BackendError, match="the baseline does not run: torch:fp32 needs torch"):
        bench_model(bundle.path)


def test_the_worker_answers_line_by_line(bundle, tmp_path):
    lr = np.random.default_rng(0).random((1, 3, 8, 8), dtype=np.float32)
    np.save(tmp_path / "lr.npy", lr)
    request = {
        "model": str(bundle.path),
        "choice": "onnxruntime:fp32",
        "threads": 1,
        "input": str(tmp_path / "lr.npy"),
        "output": str(tmp_path / "sr.npy"),
        "warm_up_seconds": 0.1,
    }
    lines = [request, {"calls": 3, "primed": True}, {"memory": True}]
    answers = io.StringIO()
    serve(io.StringIO("".join(json.dumps(line) + "\n" for line in lines)), answers)
    opened, turn, memory = (json.loads(line)["answer"] for line in answers.getvalue().splitlines())
    assert (opened["device"], opened["arrays"]) == ("cpu", "host")
    assert opened["call_seconds"] > 0
    assert len(turn) == 3
    assert min(turn) > 0
    assert memory["peak"] > 0
    assert np.load(tmp_path / "sr.npy").shape == (1, 3, 32, 32)
    refused = io.StringIO()
    serve(io.StringIO(json.dumps(request | {"choice": "onnxruntime:int8"}) + "\n"), refused)
    assert "needs a graph in int8" in json.loads(refused.getvalue())["error"]


def test_the_load_of_others_is_what_is_not_ours():
    assert others_load(LoadSample(10, 100, 50), LoadSample(12, 103, 51)) == pytest.approx(1.0)
    assert others_load(LoadSample(10, 100, 50), LoadSample(12, 101, 51.2)) == 0
    assert others_load(None, LoadSample(1, 1, 1)) is None
    before = sample_load([])
    if before is None:
        pytest.skip("this system does not tell how busy its processors are")
    deadline = before.own + 0.2
    while (now := sample_load([])).own < deadline:
        sum(range(10000))
    assert now.busy - before.busy >= 0.15  # what this process worked is part of all work
