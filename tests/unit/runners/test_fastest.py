"""Which choice is the fastest: autotuning with known times, and what is remembered of it."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest

from sr_deploy.backends import BackendChoice
from sr_deploy.backends.registry import parse_backend
from sr_deploy.cache import cache_folder
from sr_deploy.errors import BackendError
from sr_deploy.model import open_model
from sr_deploy.runners import autotune
from sr_deploy.runners.base import BaseRunner
from sr_deploy.runners.fastest import KIND, Answer, find_fastest
from sr_deploy.runners.protocol import RunnerSpec

FP32 = (BackendChoice("openvino"), BackendChoice("onnxruntime"))


class KnownRunner(BaseRunner):
    """Takes a known time, as far as autotuning can tell, and fails from a known call on."""

    def __init__(self, choice: BackendChoice, seconds: float, fails_at: int = 10**9) -> None:
        super().__init__(RunnerSpec(choice.backend, "0", choice.precision, "cpu", 4, 3))
        self.seconds, self.fails_at, self.calls = seconds, fails_at, 0

    @property
    def is_closed(self) -> bool:
        return self._closed

    def _infer(self, lr_NCHW):
        self.calls += 1
        if self.calls >= self.fails_at:
            raise BackendError(f"{self.spec} is out of order")
        n, channels, height, width = lr_NCHW.shape
        return np.zeros((n, channels, 4 * height, 4 * width), np.float32)

    def _release(self) -> None:
        pass


@pytest.fixture(scope="module")
def graph(exported):
    return open_model(exported("compact-x4").path)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SR_DEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / KIND


@pytest.fixture
def candidates(monkeypatch):
    """Puts runners in the place of real ones; a string in the place of a runner is why it does not open."""
    runners: dict[str, KnownRunner | str] = {}

    def open_one(_model, choice, **_options):
        found = runners[str(choice)]
        if isinstance(found, str):
            raise BackendError(found)
        return found

    def time_known(call, calls=1, primed=False):
        for _ in range(calls + primed):
            call()
        return [call.__self__.runner.seconds] * calls

    monkeypatch.setattr(autotune, "open_runner", open_one)
    monkeypatch.setattr(autotune, "time_turn", time_known)
    monkeypatch.setattr(autotune, "time_call", lambda call: time_known(call)[0])

    def enter(**seconds: float | str | KnownRunner) -> list[BackendChoice]:
        choices = [parse_backend(name.replace("_", ":")) for name in seconds]
        for choice, value in zip(choices, seconds.values(), strict=True):
            runners[str(choice)] = KnownRunner(choice, value) if isinstance(value, float) else value
        return choices

    enter.runners = runners
    return enter


@pytest.fixture
def finish_race(monkeypatch):
    """Lets autotuning end in a known way."""

    def finish(winner: BackendChoice, milliseconds: dict[str, float] | None = None, **failed: str) -> None:
        failures = {name.replace("_", ":"): reason for name, reason in failed.items()}
        result = autotune.AutotuneResult(winner, autotune.Shape(1, 8, 8), milliseconds or {}, failures)
        monkeypatch.setattr(autotune, "autotune", lambda *_args, **_options: result)

    return finish


def test_the_fastest_wins_and_slow_ones_stop_early(graph, candidates):
    choices = candidates(torch_fp32=0.06, openvino_int8=0.002, onnxruntime_fp32=0.0026, openvino_fp32=0.0022)
    result = autotune.autotune(graph, choices)
    assert result.winner == BackendChoice("openvino", "int8")
    assert result.milliseconds == {
        "openvino:int8": 2.0,
        "openvino:fp32": 2.2,
        "onnxruntime:fp32": 2.6,
        "torch:fp32": 60.0,
    }
    assert str(result.shape) == "1x128x128"  # a small network takes the largest tile
    assert result.failed == {}
    calls = {str(choice): candidates.runners[str(choice)].calls for choice in choices}
    assert calls["torch:fp32"] == 2  # one that compiles, one that is timed
    assert calls["onnxruntime:fp32"] == 2 + 3 * 11  # three rounds of ten calls and one that wakes the threads
    assert calls["openvino:int8"] == calls["openvino:fp32"] == 2 + 9 * 11
    assert all(runner.is_closed for runner in candidates.runners.values())


def test_what_fails_is_named_and_the_others_go_on(graph, candidates):
    choices = candidates(
        openvino_int8="no memory for it",
        openvino_bf16=KnownRunner(BackendChoice("openvino", "bf16"), 0.001, fails_at=5),
        torch_bf16=KnownRunner(BackendChoice("torch", "bf16"), 0.001, fails_at=9),
        onnxruntime_fp32=0.1,
    )
    result = autotune.autotune(graph, choices)
    assert result.winner == BackendChoice("onnxruntime")  # dropped as hopeless before the faster ones failed
    assert result.failed == {
        "openvino:int8": "no memory for it",
        "openvino:bf16": "openvino:bf16 is out of order",
        "torch:bf16": "torch:bf16 is out of order",
    }
    with pytest.raises(BackendError, match=r"nothing computes .* here: no memory for it"):
        autotune.autotune(graph, choices[:1])


@pytest.mark.parametrize(("fp32", "winner"), [(1.02, "onnxruntime:fp32"), (1.05, "openvino:int8")])
def test_of_two_that_are_as_fast_the_more_precise_is_taken(graph, candidates, fp32, winner):
    one, other = candidates(openvino_int8=0.0, onnxruntime_fp32=0.0)
    lr_NCHW = np.zeros((1, 3, 8, 8), np.float32)
    candidates = [autotune._Candidate(choice, candidates.runners[str(choice)], lr_NCHW) for choice in (one, other)]
    candidates[0].seconds, candidates[1].seconds = 1.0, fp32
    picked = autotune._pick(candidates)
    assert str(picked.choice) == winner


def test_tiles_suit_the_network(graph, monkeypatch, make_bundle, tmp_path):
    spec = RunnerSpec("openvino", "0", "fp32", "cpu", 4, 3)
    cost = autotune.describe_graph_cost(graph.path)
    for flops, side in ((1.24e6, 128), (11.4e6, 64), (35.9e6, 48), (1e9, 32)):
        monkeypatch.setattr(
            autotune, "describe_graph_cost", lambda _path, flops=flops: replace(cost, flops_per_input_pixel=flops)
        )
        assert autotune._draw_tile(graph, spec).shape == (1, 3, side, side)
        assert autotune._draw_tile(graph, replace(spec, input_multiple=24)).shape[2] % 24 == 0
    profile = make_bundle("compact-x4", tmp_path).manifest.profiles[0]  # 1x8x8 to 1x32x32
    assert autotune._draw_tile(graph, replace(spec, profiles=(profile,))).shape == (1, 3, 32, 32)


def test_it_is_measured_once(graph, own_cache, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "sr_deploy.runners")
    chosen = find_fastest(graph, FP32, explain=lambda: ["int8 left out: nobody verified it"])
    assert chosen in FP32
    (line,) = caplog.messages
    assert line.startswith(f"--backend auto measured {chosen} ")
    assert f"on 1x128x128: it takes {chosen}; remembered in {cache_folder()}; int8 left out: nobody verified it" in line
    answer = Answer.model_validate_json(next(own_cache.glob("*.json")).read_text())
    assert answer.chosen == str(chosen)
    assert set(answer.milliseconds) == {"openvino:fp32", "onnxruntime:fp32"}

    monkeypatch.setattr(autotune, "autotune", lambda *_args, **_options: pytest.fail("measured again"))
    caplog.clear()
    assert find_fastest(graph, FP32) == chosen
    assert find_fastest(graph, FP32[:1], threads=7) == FP32[0]  # nothing to choose from: nothing to measure
    assert caplog.messages == []


@pytest.mark.parametrize("kept", ["{", '{"schema_version": 1}', "another question", "another answer"])
def test_what_is_damaged_or_of_something_else_is_measured_again(graph, own_cache, caplog, finish_race, kept):
    caplog.set_level(logging.INFO, "sr_deploy.runners")
    finish_race(FP32[0], {"openvino:fp32": 12.345, "onnxruntime:fp32": 2100.0})
    assert find_fastest(graph, FP32) == FP32[0]
    (path,) = own_cache.glob("*.json")
    good = path.read_text()
    document = json.loads(good)
    if kept == "another question":
        document["question"]["cpu"] = "another processor"
    elif kept == "another answer":
        document["chosen"] = "torch:bf16"
    path.write_text(json.dumps(document) if kept.startswith("another") else kept)
    caplog.clear()
    assert find_fastest(graph, FP32) == FP32[0]
    assert "measured openvino:fp32 12.3 ms, onnxruntime:fp32 2.1 s on 1x8x8: it takes openvino:fp32" in caplog.text
    assert ("is damaged; measured again" in caplog.text) == (not kept.startswith("another"))
    assert json.loads(path.read_text())["question"] == json.loads(good)["question"]


def test_threads_and_versions_are_other_questions(graph, own_cache, monkeypatch, finish_race):
    finish_race(FP32[0])
    for threads, kept in ((1, 1), (2, 2), (2, 2)):
        find_fastest(graph, FP32, threads=threads)
        assert len(list(own_cache.glob("*.json"))) == kept
    monkeypatch.setattr("sr_deploy.runners.fastest.installed_version", lambda _module: "99")
    find_fastest(graph, FP32, threads=2)
    assert len(list(own_cache.glob("*.json"))) == 3


def test_a_cache_that_cannot_be_written_is_no_error(graph, tmp_path, monkeypatch, caplog, finish_race):
    caplog.set_level(logging.INFO, "sr_deploy.runners")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SR_DEPLOY_CACHE", str(tmp_path / "file"))
    finish_race(FP32[1], openvino_fp32="no memory for it")
    assert find_fastest(graph, FP32) == FP32[1]
    (line,) = caplog.messages
    assert "openvino:fp32 failed: no memory for it" in line
    assert f"the choice is not kept for the next time: cannot write {tmp_path}" in line
