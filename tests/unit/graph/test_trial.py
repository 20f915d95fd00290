"""Graphs whose shapes do not follow from their nodes: they are run on small pictures, in a process of their own."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from sr_deploy.cache import cache_folder
from sr_deploy.errors import GraphError
from sr_deploy.graph import probe, trial
from sr_deploy.graph.read import read_graph


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SR_DEPLOY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(probe, "_found", {})


def enlarging(op, **attributes):
    """Twice the sides, behind an operator that leaves them alone and that nothing here follows."""
    return [
        helper.make_node(op, ["x"], ["same"], **attributes),
        helper.make_node("Resize", ["same", "", "s"], ["y"], mode="nearest"),
    ]


SCALES = {"s": np.array([1, 1, 2, 2], np.float32)}


def test_scale_and_multiple_are_learnt_and_kept(make_graph):
    path = make_graph(enlarging("Einsum", equation="nchw->nchw"), SCALES)
    graph = read_graph(path)
    assert (graph.scale, graph.input_multiple, graph.smallest_side) == (2, 1, 1)
    (kept,) = (cache_folder() / trial.KIND).glob("*.json")
    kept.write_text('{"scale": 5, "multiple": 4, "smallest": 8}')
    assert read_graph(path).scale == 2  # this process remembers
    probe._found.clear()
    path.touch()  # what was read of a file that stays as it is would be remembered, too
    graph = read_graph(path)
    assert (graph.scale, graph.input_multiple, graph.smallest_side) == (5, 4, 8)


def test_integer_io(make_graph):
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Einsum", ["f"], ["same"], equation="nhwc->nhwc"),
        helper.make_node("Resize", ["same", "", "s"], ["large"], mode="nearest"),
        helper.make_node("Cast", ["large"], ["y"], to=TensorProto.UINT8),
    ]
    constants = {"s": np.array([1, 3, 3, 1], np.float32)}
    path = make_graph(nodes, constants, input_shape=("n", "h", "w", 3), dtype=TensorProto.UINT8)
    from onnx import load, save

    model = load(path)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.UINT8, ["n", "a", "b", 3]))
    save(model, path)
    assert read_graph(path).scale == 3


def test_a_smallest_side_is_found(make_graph):
    """Mirrored by four pixels and cut again: nothing smaller than five runs."""
    nodes = [
        helper.make_node("Einsum", ["x"], ["same"], equation="nchw->nchw"),
        helper.make_node("Pad", ["same", "pads"], ["wide"], mode="reflect"),
        helper.make_node("AveragePool", ["wide"], ["y"], kernel_shape=[9, 9]),
    ]
    graph = read_graph(make_graph(nodes, {"pads": np.array([0, 0, 4, 4, 0, 0, 4, 4])}))
    assert (graph.scale, graph.input_multiple, graph.smallest_side) == (1, 1, 5)


def loop(trips):
    flag = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("go", "on")]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("v", "w")]
    count = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    nodes = [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Relu", ["v"], ["w"])]
    body = helper.make_graph(nodes, "body", [count, flag[0], value[0]], [flag[1], value[1]])
    return [helper.make_node("Loop", ["trips", "true", "x"], ["y"], body=body)], {
        "trips": np.int64(trips),
        "true": np.array(True),
    }


def test_loops_that_end_are_run(make_graph):
    assert read_graph(make_graph(*loop(3))).scale == 1


def test_loops_without_end_are_ended(make_graph):
    request = trial.Trial(
        path=str(make_graph(*loop(2**62))), dtype="float32", declared=(None, 3, None, None), seconds=1
    )
    with pytest.raises(GraphError, match=r"tried .* took more than 1 s of processor time"):
        trial.try_graph(request, "for a test")


def test_memory_is_bounded(make_graph):
    """What the trial allows is less than this takes: 16 GiB."""
    nodes = [
        helper.make_node("Einsum", ["x"], ["same"], equation="nchw->nchw"),
        helper.make_node("NonZero", ["same"], ["many"]),
        helper.make_node("Shape", ["many"], ["size"]),
        helper.make_node("Mul", ["size", "times"], ["sides"]),
        helper.make_node("ConstantOfShape", ["sides"], ["t"]),
        helper.make_node("ReduceMax", ["t"], ["most"], keepdims=0),
        helper.make_node("Add", ["same", "most"], ["y"]),
    ]
    with pytest.raises(GraphError, match="so it was tried on small pictures"):
        read_graph(make_graph(nodes, {"times": np.array([1000, 1000])}))


def test_a_process_that_dies_is_an_error_of_the_file(make_graph, monkeypatch):
    monkeypatch.setattr(trial.sys, "executable", "/bin/false")
    with pytest.raises(GraphError, match="ended the process with exit code 1; it is not run here"):
        read_graph(make_graph(enlarging("Einsum", equation="nchw->nchw"), SCALES))


def test_what_does_not_run_is_said(make_graph):
    with pytest.raises(GraphError, match="Einsum is not followed, so it was tried on small pictures: "):
        read_graph(make_graph(enlarging("Einsum", equation="nchw->nch"), SCALES))
