import pytest

from sr_deploy.backends import torch
from sr_deploy.bench import choices
from sr_deploy.bench.choices import choose_candidates, parse_candidate, why_not_timed
from sr_deploy.errors import BackendError, InputError
from sr_deploy.gpus import visible_gpus
from sr_deploy.measure import machine
from sr_deploy.model import open_model

without_gpu = pytest.mark.skipif(bool(visible_gpus()), reason="this machine has an NVIDIA GPU")


@pytest.mark.parametrize("text", ["torch:fp32+nchw", "torch:bf16+compile", "openvino:int8+fixed", "onnxruntime:fp32"])
def test_a_candidate_is_written_as_it_is_read(text):
    assert str(parse_candidate(text)) == text


def test_words_that_are_unknown_are_refused():
    assert str(parse_candidate("torch+nchw")) == "torch:fp32+nchw"
    with pytest.raises(InputError, match=r"'jit' in 'torch\+jit'; known: nchw, compile, eager, fixed"):
        parse_candidate("torch+jit")
    with pytest.raises(InputError, match="unknown backend 'jax'"):
        parse_candidate("jax+compile")


@without_gpu
def test_left_to_itself_it_takes_all_that_runs_and_loads_quickly(bundle):
    running, left_out = choose_candidates(open_model(bundle.path), None)
    names = [str(choice) for choice in running]
    assert names[0] == "torch:fp32+nchw"
    assert {"torch:fp32", "onnxruntime:fp32", "onnxruntime:fp16", "openvino:fp32"} <= set(names)
    missing = {one.candidate: one.reason for one in left_out}
    assert "--backend torch:fp16" in missing["torch:fp16"]
    assert "--backend torch:bf16+compile" in missing["torch:bf16+compile"]
    assert {"tensorrt:fp32", "tensorrt:fp16", "tensorrt-rtx:fp32", "tensorrt-rtx:fp16"} <= set(missing)
    assert not any("int8" in name for name in missing)  # it has no such graph: nobody misses it
    asked, _ = choose_candidates(
        open_model(bundle.path), [parse_candidate("torch:fp16"), parse_candidate("torch+nchw")]
    )
    assert [str(choice) for choice in asked] == ["torch:fp32+nchw", "torch:fp16"]


@without_gpu
@pytest.mark.parametrize("able", [True, False])
def test_bf16_on_a_cpu_without_it_is_timed_when_asked_for(bundle, monkeypatch, able):
    monkeypatch.setattr(machine, "has_multiplier", lambda precision: able)
    model, bf16 = open_model(bundle.path), parse_candidate("torch:bf16")
    running, left_out = choose_candidates(model, None)
    reasons = [one.reason for one in left_out if one.candidate == "torch:bf16"]
    assert (bf16 in running, len(reasons)) == (able, 0 if able else 1)
    assert able or "no bf16 instructions" in reasons[0]
    assert bf16 in choose_candidates(model, [bf16])[0]


def test_without_a_baseline_there_is_no_table(bundle, monkeypatch):
    monkeypatch.setattr(choices, "why_not_runnable", lambda *_: "torch:fp32 needs torch")
    with pytest.raises(BackendError, match="the baseline does not run: torch:fp32 needs torch"):
        choose_candidates(open_model(bundle.path), None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("torch:fp32+fixed", r"\+fixed is of onnxruntime and openvino and tensorrt"),
        ("onnxruntime:bf16+fixed", r"\+fixed is of onnxruntime and openvino and tensorrt"),
        ("onnxruntime:fp32+compile", r"\+compile is of torch; leave it out"),
        ("openvino:fp32+nchw", r"\+nchw is of torch; leave it out"),
        ("openvino:int8+fixed", "needs a graph in int8"),
        ("onnxruntime:fp32+eager", r"\+eager is of torch and tensorrt"),
        pytest.param("torch:fp32+eager", "leave \\+eager out", marks=without_gpu),
        pytest.param("tensorrt:fp32+fixed", "needs an NVIDIA GPU", marks=without_gpu),
    ],
)
def test_variants_that_do_not_exist_are_refused_with_the_reason(bundle, text, reason):
    import re

    assert re.search(reason, why_not_timed(open_model(bundle.path), parse_candidate(text)))


def test_compiling_needs_a_compiler(bundle, monkeypatch, tmp_path):
    torch._why_not_compiled.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("sr_deploy.gpus._ask_once", tuple)
    reason = why_not_timed(open_model(bundle.path), parse_candidate("torch:fp32+compile"))
    torch._why_not_compiled.cache_clear()
    assert reason == "torch:fp32+compile needs a C++ compiler, which this machine lacks; on Debian: apt-get install g++"
