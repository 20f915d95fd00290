"""What runners change in a graph when they open it: what is named is done, the output stays, everything still opens."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from sr_deploy.backends import BackendChoice
from sr_deploy.backends.onnxruntime.runner import OnnxRuntimeRunner
from sr_deploy.backends.openvino.runner import why_not_computed
from sr_deploy.errors import BackendError
from sr_deploy.graph.io_dtype import change_io_dtype
from sr_deploy.graph.rewrite import DEFAULT, FOR_ONNXRUNTIME, FOR_OPENVINO, apply_rewrites
from sr_deploy.model import open_model
from sr_deploy.runners import open_runner, rewritten
from sr_deploy.runners.rewritten import rewrite_graph

ADDED = {
    ("rrdbnet-x4", "openvino:fp32"): ("scales", "residual_taps", "narrow_output", "sub_pixel", "concat"),
    ("rrdbnet-x4", "onnxruntime:fp32"): ("scales", "residual_taps", "narrow_output"),
    ("compact-x4", "openvino:fp32"): ("nearest_skip",),
    ("compact-x4", "onnxruntime:fp32"): ("nearest_skip", "prelu"),
    ("srresnet-x4", "openvino:fp32"): ("narrow_output",),
    ("compact-x1", "openvino:fp32"): (),
}
GRAPH_BACKENDS = ("onnxruntime:fp32", "openvino:fp32")


@pytest.fixture
def lr():
    return np.random.default_rng(5).random((2, 3, 9, 6), dtype=np.float32)


@pytest.fixture
def make_foreign(exported, tmp_path):
    """Gives a file with a graph of `EXPORTED_SPECS` after `change`."""

    def make(name, change):
        model = onnx.load(exported(name).path)
        path = tmp_path / "foreign.onnx"
        change(model)
        onnx.save(model, path)
        return path

    return make


@pytest.mark.parametrize(("name", "choice"), ADDED)
def test_each_backend_has_its_own(exported, lr, name, choice):
    path = exported(name).path
    with open_runner(path, choice) as runner, open_runner(path, choice, rewrite=False) as plain:
        assert runner.spec.rewrites == ADDED[name, choice]
        assert plain.spec.rewrites == ()
        assert runner.spec.artifact == plain.spec.artifact == path
        sr, expected = runner.infer(lr), plain.infer(lr)
    assert np.abs(sr - expected).max() <= 1e-5
    if name == "rrdbnet-x4":
        assert not np.array_equal(sr, expected)  # summed in another order: it was another graph


def test_what_the_file_has_already_is_not_added_again(make_foreign, lr):
    path = make_foreign("rrdbnet-x4", lambda model: apply_rewrites(model, DEFAULT))
    for choice, added in (
        ("openvino:fp32", ("residual_taps", "sub_pixel", "concat")),
        ("onnxruntime:fp32", ("residual_taps",)),
    ):
        with open_runner(path, choice) as runner:
            assert runner.spec.rewrites == added


def test_bf16_keeps_residuals_apart(exported):
    if why_not_computed(BackendChoice("openvino", "bf16")):
        pytest.skip("this CPU has no bf16 instructions")
    with open_runner(exported("rrdbnet-x4").path, "openvino:bf16") as runner:
        assert runner.spec.rewrites == ("scales", "narrow_output", "sub_pixel", "concat")


def test_other_precisions_and_the_reference_run_as_they_are_written(make_bundle, exported, tmp_path):
    model = open_model(make_bundle("rrdbnet-x4", tmp_path, fp16=True).path)
    for choice in ("onnxruntime:fp16", "torch:fp32"):
        with open_runner(model, choice) as runner:
            assert runner.spec.rewrites == ()
    graph = open_model(exported("rrdbnet-x4").path)
    with OnnxRuntimeRunner(graph, BackendChoice("onnxruntime"), "cpu", 1, optimize=False) as reference:
        assert reference.spec.rewrites == ()


@pytest.mark.parametrize("choice", GRAPH_BACKENDS)
def test_integer_io_stays_the_same(make_foreign, lr, choice):
    path = make_foreign("rrdbnet-x4", lambda model: change_io_dtype(model, "uint8"))
    with open_runner(path, choice) as runner, open_runner(path, choice, rewrite=False) as plain:
        assert runner.spec.dtype == "uint8"
        assert {"residual_taps", "narrow_output"} <= set(runner.spec.rewrites)
        steps = np.rint(255 * (runner.infer(lr) - plain.infer(lr)))
    assert np.abs(steps).max() <= 1
    assert np.count_nonzero(steps) <= 2  # a sample next to the middle between two numbers


def test_an_opset_before_11_is_left_as_it_is(make_foreign):
    def age(model):
        model.opset_import[0].version = 10

    assert rewrite_graph(make_foreign("rrdbnet-x4", lambda _: None), DEFAULT).rewrites == ("scales", "narrow_output")
    assert rewrite_graph(make_foreign("rrdbnet-x4", age), DEFAULT) is None


@pytest.mark.parametrize("choice", GRAPH_BACKENDS)
def test_weights_in_a_file_beside_are_read(exported, tmp_path, lr, choice):
    path = tmp_path / "foreign.onnx"
    settings = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 256}
    onnx.save(onnx.load(exported("rrdbnet-x4").path), path, **settings)
    assert (tmp_path / "weights.bin").stat().st_size > path.stat().st_size / 2
    with open_runner(path, choice) as runner, open_runner(exported("rrdbnet-x4").path, choice) as whole:
        assert runner.spec.rewrites == whole.spec.rewrites == ADDED["rrdbnet-x4", choice]
        np.testing.assert_array_equal(runner.infer(lr), whole.infer(lr))
    (tmp_path / "weights.bin").unlink()
    assert rewrite_graph(path, FOR_OPENVINO) is None
    with pytest.raises(BackendError, match=f"{choice[:8]}.* cannot load .*foreign.onnx"):
        open_runner(path, choice)


@pytest.mark.parametrize("choice", GRAPH_BACKENDS)
def test_a_rewritten_graph_that_is_refused_gives_way_to_the_file(exported, monkeypatch, lr, choice):
    path = exported("compact-x4").path
    refused = rewritten.RewrittenGraph(b"no graph", ("nearest_skip",))
    monkeypatch.setattr(rewritten, "rewrite_graph", lambda *_: refused)
    with open_runner(path, choice) as runner, open_runner(path, choice, rewrite=False) as plain:
        assert runner.spec.rewrites == ()
        np.testing.assert_array_equal(runner.infer(lr), plain.infer(lr))


def test_large_files_are_left_to_the_backend(exported, monkeypatch):
    path = exported("compact-x4").path
    assert rewrite_graph(path, FOR_ONNXRUNTIME).rewrites == ("nearest_skip", "prelu")
    monkeypatch.setattr(rewritten, "_MAX_BYTES", path.stat().st_size - 1)
    assert rewrite_graph(path, FOR_ONNXRUNTIME) is None
