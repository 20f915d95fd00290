import hashlib
import io
import json

import numpy as np
import pytest

from sr_deploy.bench import run as run_module
from sr_deploy.bench.load import LoadSample, others_load, sample_load
from sr_deploy.bench.report import BenchReport
from sr_deploy.bench.run import bench_model
from sr_deploy.bench.shape import ShapeOutcome, sort_results
from sr_deploy.bench.statistics import Schedule
from sr_deploy.bench.worker import serve
from sr_deploy.bundle import Shape
from sr_deploy.errors import ShapeError
from sr_deploy.files import sha256_of
from sr_deploy.gpus import visible_gpus
from sr_deploy.imaging.codec import read_image, write_image
from sr_deploy.imaging.convert import to_image
from sr_deploy.measure.clocks import ClockLock, LockedClock
from sr_deploy.runners.inputs import photograph_batch

pytestmark = pytest.mark.xdist_group("bench")  # one process measures for all

without_gpu = pytest.mark.skipif(bool(visible_gpus()), reason="this machine has an NVIDIA GPU")


class Recorder:
    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def take_turn(self, calls, primed):
        self.calls.append((self.name, calls, primed))
        return [float(len(self.calls))] * calls


def test_candidates_take_turns():
    seen, rounds = [], []
    candidates = [Recorder(name, seen) for name in "ABC"]
    turns = Schedule(2, (1, 2, 3), (False, True, False)).run([one.take_turn for one in candidates], rounds.append)
    assert seen == [("A", 1, False), ("B", 2, True), ("C", 3, False)] * 2
    assert turns == [[[1.0], [4.0]], [[2.0] * 2, [5.0] * 2], [[3.0] * 3, [6.0] * 3]]
    assert rounds == [1, 2]


def test_what_is_not_verified_is_never_first(report):
    one = report.results[0]
    wrong = one.parity.model_copy(update={"verified": False})
    made = {"wrong": (1.0, wrong), "slow": (9.0, one.parity), "fast": (2.0, one.parity)}
    results = [
        one.model_copy(update={"candidate": name, "median_ms": median, "parity": parity})
        for name, (median, parity) in made.items()
    ]
    assert [result.candidate for result in sort_results(results)] == ["fast", "slow", "wrong"]


def test_the_report_names_where_what_and_how(report, bundle):
    assert report.schema_version == 3
    assert report.command == "sr-deploy bench"
    assert report.model == "compact-x4"
    assert report.model_sha256 == sha256_of(bundle.reference)
    assert (report.reference, report.baseline) == ("torch:fp32", "torch:fp32+nchw")
    assert (report.scale, report.channels, report.threads) == (4, 3, 1)
    assert report.machine.cores >= 1
    assert {"torch", "onnxruntime"} <= set(report.versions)
    assert report.measured_at.startswith("20")
    (run,) = report.runs
    lr = photograph_batch(Shape(2, 24, 16), 3, 4)
    assert (run.shape, run.sha256) == ("2x24x16", hashlib.sha256(b"(2, 3, 24, 16)" + lr.tobytes()).hexdigest())
    assert run.rounds >= 5
    assert BenchReport.model_validate_json(report.model_dump_json()) == report


def test_the_figures_fit_each_other(report):
    by_name = {one.candidate: one for one in report.results}
    assert set(by_name) == {"torch:fp32+nchw", "onnxruntime:fp32", "onnxruntime:fp32+fixed"}
    medians = [one.median_ms for one in report.results]
    assert medians == sorted(medians)
    baseline, graph = by_name["torch:fp32+nchw"], by_name["onnxruntime:fp32"]
    assert (baseline.speedup, baseline.speedup_low, baseline.speedup_high) == (1, 1, 1)
    assert baseline.parity.max_abs == 0
    assert (baseline.rewrites, graph.rewrites) == ((), ("nearest_skip", "prelu"))
    assert graph.parity.verified
    assert 0 < graph.parity.max_abs <= 1e-5
    assert graph.speedup_low <= graph.speedup <= graph.speedup_high
    for one in report.results:
        assert one.calls >= report.runs[0].rounds
        assert one.warm_up_calls >= 3
        assert one.p99_ms >= one.p95_ms >= one.median_ms > 0 <= one.spread_ms
        assert one.images_per_second == pytest.approx(2000 / one.median_ms)
        assert one.input_megapixels_per_second == pytest.approx(2 * 24 * 16 / 1e3 / one.median_ms)
        assert one.output_megapixels_per_second == pytest.approx(16 * one.input_megapixels_per_second)
        assert (one.arrays, one.device_memory_mib, one.host_copies, one.device_timing) == ("host", None, None, None)
        assert one.peak_memory_mib > one.import_memory_mib > 10
    # torch alone is more than ONNX Runtime with everything it needs: each has its own process
    assert baseline.import_memory_mib > graph.import_memory_mib + 50


def test_files_and_the_cold_start_are_told_apart_from_the_inference(report):
    for one in report.results:
        assert (one.end_to_end.format, one.end_to_end.images_per_second) == (
            "png",
            pytest.approx(2000 / one.end_to_end.median_ms),
        )
        assert one.end_to_end.median_ms > one.median_ms  # it holds an inference
        cold = one.cold_start
        assert min(cold.import_ms, cold.load_ms, cold.first_call_ms) > 0
        assert cold.build_ms is None
        assert cold.total_ms == cold.import_ms + cold.load_ms + cold.first_call_ms


def test_the_clock_is_locked_while_shapes_are_measured_and_the_report_says_so(report, bundle, monkeypatch):
    log = []

    class Lock(LockedClock):
        def __enter__(self):
            log.append("lock")
            return super().__enter__()

        def __exit__(self, *error):
            super().__exit__(*error)
            log.append("let go")

        def _ask(self, option):
            return "no permission" if option.startswith("--lock") else None

    def measure(bench, choices):
        log.append("measure")
        return ShapeOutcome(report.runs[0], report.results, [])

    monkeypatch.setattr(run_module, "LockedClock", Lock)
    monkeypatch.setattr(run_module.ShapeBench, "run", measure)
    locked = bench_model(bundle.path, shapes=[Shape(2, 24, 16)] * 2, choices=[], threads=1, lock_mhz=1500)
    assert log == ["lock", "measure", "measure", "let go"]
    assert locked.clock_lock == ClockLock(mhz=1500, refused="no permission", kept=None)
    log.clear()
    assert bench_model(bundle.path, shapes=[Shape(2, 24, 16)], choices=[], threads=1).clock_lock is None
    assert log == ["measure"]


@without_gpu
def test_candidates_that_cannot_run_are_named_with_the_reason(report):
    (missing,) = report.left_out
    assert missing.candidate == "tensorrt:fp16"
    assert "needs an NVIDIA GPU" in missing.reason


def test_a_foreign_graph_is_timed_against_onnxruntime(exported):
    path = exported("compact-x2-gray").path
    report = bench_model(path, shapes=[Shape(1, 8, 8)], choices=["openvino"], seconds_each=0.05, threads=1)
    assert report.baseline == "onnxruntime:fp32"
    assert report.reference == "onnxruntime:fp32, graph as written"
    assert {one.candidate for one in report.results} == {"onnxruntime:fp32", "openvino:fp32"}
    assert all(one.parity.verified for one in report.results)


def test_a_shape_that_the_network_does_not_take_is_an_error(make_bundle, tmp_path):
    bundle = make_bundle("rrdbnet-x2", tmp_path)
    with pytest.raises(ShapeError, match="multiples of 2, not 7x8"):
        bench_model(bundle.path, shapes=[Shape(1, 7, 8)], choices=[], seconds_each=0.05)


def test_a_candidate_that_fails_does_not_take_the_others_with_it(exported, make_bundle, tmp_path):
    bundle = make_bundle("compact-x1", tmp_path, graph=exported("rrdbnet-x2").path)  # takes even sides only
    report = bench_model(bundle.path, shapes=[Shape(1, 7, 9)], choices=["openvino"], seconds_each=0.05)
    assert [one.candidate for one in report.results] == ["torch:fp32+nchw"]
    assert [one.candidate for one in report.left_out] == ["openvino:fp32 at 1x7x9"]


def test_the_worker_answers_line_by_line(bundle, tmp_path):
    lr = photograph_batch(Shape(2, 8, 8), 3, 4)
    np.save(tmp_path / "lr.npy", lr)
    for index in range(2):
        write_image(tmp_path / f"{index}.png", to_image(lr[index : index + 1]))
    request = {
        "model": str(bundle.path),
        "choice": "onnxruntime:fp32",
        "threads": 1,
        "input": str(tmp_path / "lr.npy"),
        "output": str(tmp_path / "sr.npy"),
        "files": str(tmp_path),
        "warm_up_seconds": 0.1,
        "trust": {},
    }
    turn = {"calls": 3, "primed": True, "kind": "calls"}
    lines = (request, turn, turn | {"kind": "files"}, {"tell": "peak"}, {"tell": "device"})
    answers = io.StringIO()
    serve(io.StringIO("".join(json.dumps(line) + "\n" for line in lines)), answers)
    opened, plain, files, peak, device = (json.loads(line)["answer"] for line in answers.getvalue().splitlines())
    assert (opened["device"], opened["arrays"], opened["copies"], device) == ("cpu", "host", None, None)
    assert min(opened["call_seconds"], *plain, *files) > 0
    assert (len(plain), len(files)) == (3, 3)
    assert peak > 0
    sr = np.load(tmp_path / "sr.npy")
    (results,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    for index in range(2):  # what was timed from file to file wrote what the network gives
        assert np.array_equal(read_image(results / f"{index}.png"), to_image(sr[index : index + 1]))
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
