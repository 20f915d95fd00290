"""What is done grows with the work: calls are counted, on graphs and folders of two sizes, nothing is timed."""

import cProfile
import pstats

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from sr_deploy.backends import BackendChoice
from sr_deploy.backends.onnxruntime.runner import OnnxRuntimeRunner
from sr_deploy.export.cleanup import clean_graph
from sr_deploy.export.fp16 import convert_model_to_fp16
from sr_deploy.export.fp16_probe import measure_layers
from sr_deploy.graph.check import check_model
from sr_deploy.graph.read import describe_graph_cost, describe_layers, read_graph
from sr_deploy.graph.rewrite import FOR_ONNXRUNTIME, apply_rewrites, rewrite_model
from sr_deploy.model import open_model
from sr_deploy.upscale.folder_job import FolderProgress, open_folder_job
from sr_deploy.upscale.folder_journal import open_journal, stamp_of
from sr_deploy.upscale.image_file import FileSettings
from sr_deploy.upscale.output_naming import plan_folder

FEATURES = 4
FP32 = BackendChoice("onnxruntime", "fp32")


def make_chain(layers):
    """Convolutions and PReLUs one after the other, x2 at the end; the names of constants have dots, as trained ones."""
    draw = np.random.default_rng(0)
    nodes, constants, before = [], [], "lr"
    for number in range(layers):
        channels, filters = (3 if number == 0 else FEATURES), (12 if number == layers - 1 else FEATURES)
        weights = draw.normal(0, 0.2, (filters, channels, 3, 3)).astype(np.float32)
        constants.append(numpy_helper.from_array(weights, f"body.{number}.weight"))
        nodes.append(
            helper.make_node(
                "Conv", [before, f"body.{number}.weight"], [f"map{number}"], kernel_shape=[3, 3], pads=[1] * 4
            )
        )
        before = f"map{number}"
        if number < layers - 1:
            slopes = draw.uniform(0.1, 0.4, (FEATURES, 1, 1)).astype(np.float32)
            constants.append(numpy_helper.from_array(slopes, f"body.{number}.slope"))
            nodes.append(helper.make_node("PRelu", [before, f"body.{number}.slope"], [f"active{number}"]))
            before = f"active{number}"
    nodes.append(helper.make_node("DepthToSpace", [before], ["sr"], blocksize=2, mode="CRD"))
    values = [
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3, f"{factor}h", f"{factor}w"])]
        for name, factor in (("lr", ""), ("sr", "2*"))
    ]
    graph = helper.make_graph(nodes, "chain", *values, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def count_calls(call):
    """Calls of Python's and of C's functions."""
    profile = cProfile.Profile()
    profile.runcall(call)
    return pstats.Stats(profile).total_calls


@pytest.mark.parametrize(
    "work",
    [
        lambda model: clean_graph(model, scale=2),
        check_model,
        rewrite_model,
        lambda model: apply_rewrites(model, FOR_ONNXRUNTIME),
        lambda model: describe_layers(model, (1, 16, 16)),
        lambda model: convert_model_to_fp16(model, "the graph"),
    ],
    ids=["clean", "check", "rewrite", "for onnxruntime", "layers", "fp16"],
)
def test_work_on_a_graph_grows_with_its_nodes(work):
    short, long = (make_chain(layers) for layers in (64, 256))
    work(make_chain(8))  # what is made once
    assert count_calls(lambda: work(long)) < 4.4 * count_calls(lambda: work(short))


def test_how_far_a_graph_looks_is_found_in_calls_that_grow_with_its_layers(tmp_path):
    calls = []
    for layers in (8, 64, 256):
        graph = tmp_path / f"{layers}.onnx"
        onnx.save(make_chain(layers), graph)
        calls.append(count_calls(lambda path=graph: describe_graph_cost(path)))
        assert describe_graph_cost(graph).receptive_radius == layers
    assert calls[2] < 4.4 * calls[1]


@pytest.mark.parametrize("finished", [False, True])
def test_planning_a_folder_grows_with_its_files(tmp_path, finished):
    counted = []
    for count in (20, 50, 200):
        source, target = tmp_path / f"in{count}", tmp_path / f"out{count}"
        source.mkdir()
        target.mkdir()
        for number in range(count):
            (source / f"{number}.png").touch()
        if finished:
            with open_journal(target) as record:
                for item in plan_folder(source, target, None):
                    item.target.touch()
                    record.finish(item.name, item.target, "0" * 64, stamp_of(item.source), "here")

        def plan(source=source, target=target, left=0 if finished else count):
            with open_folder_job(source, target, FileSettings(), None, "here") as job:
                assert len(job.items) == left
                FolderProgress(job.items, lambda _: None)

        counted.append(count_calls(plan))
    assert counted[2] < 4.4 * counted[1]


@pytest.fixture
def sessions(monkeypatch):
    """Options of all sessions of ONNX Runtime that are opened."""
    options = []

    class Watched(onnxruntime.InferenceSession):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            options.append(self.get_session_options())

    monkeypatch.setattr(onnxruntime, "InferenceSession", Watched)
    return options


def test_layers_are_measured_without_plans_that_grow_faster_than_the_graph(sessions):
    lr_NCHW = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
    probe = measure_layers(make_chain(6), [lr_NCHW])
    assert len(probe.loss) == 6
    assert all(0 < loss < 0.01 for loss in probe.loss.values())
    (options,) = sessions
    assert not options.enable_mem_reuse
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL


@pytest.mark.parametrize(("layers", "planned"), [(100, True), (200, False)])
def test_memory_of_deep_graphs_is_not_planned_ahead(tmp_path, sessions, layers, planned):
    path = tmp_path / "chain.onnx"
    onnx.save(make_chain(layers), path)
    assert read_graph(path).nodes == 2 * layers
    sessions.clear()
    lr_NCHW = np.random.default_rng(0).random((2, 3, 8, 9), np.float32)
    with OnnxRuntimeRunner(open_model(path), FP32, "cpu", 1) as runner:
        sr_NCHW = runner.infer(lr_NCHW)
    assert [options.enable_mem_reuse for options in sessions] == [planned]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])  # as ONNX Runtime has it
    np.testing.assert_allclose(sr_NCHW, session.run(None, {"lr": lr_NCHW})[0], rtol=1e-4, atol=1e-5)
