import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from sr_deploy.backends import BackendChoice
from sr_deploy.backends.openvino.runner import why_not_computed
from sr_deploy.errors import BackendError, GraphError, InputError, OutOfMemoryError, ShapeError
from sr_deploy.gpus import visible_gpus
from sr_deploy.measure.compare import compare_outputs
from sr_deploy.model import open_model
from sr_deploy.runners import base, open_runner, runnable_choices, why_not_runnable
from sr_deploy.runners.protocol import Runner

BACKENDS_FP32 = ("torch:fp32", "onnxruntime:fp32", "openvino:fp32")
without_gpu = pytest.mark.skipif(bool(visible_gpus()), reason="this machine has an NVIDIA GPU")


@pytest.fixture(scope="session")
def compact(make_bundle, tmp_path_factory):
    return open_model(make_bundle("compact-x4", tmp_path_factory.mktemp("bundles"), fp16=True).path)


@pytest.fixture
def lr():
    return np.random.default_rng(3).random((2, 3, 7, 11), dtype=np.float32)


def make_graph(path, shape, dtype=TensorProto.FLOAT, operator="DepthToSpace"):
    """A foreign graph: a 1 x 1 convolution to 12 channels, then x2 by DepthToSpace."""
    kind = np.float16 if dtype == TensorProto.FLOAT16 else np.float32
    weights = np.random.default_rng(0).random((12, 3, 1, 1)).astype(kind) / 3
    out = [shape[0], 3, *(2 * side if isinstance(side, int) else f"{side}2" for side in shape[2:])]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"]),
        helper.make_node(operator, ["y"], ["z"], **({"blocksize": 2} if operator == "DepthToSpace" else {})),
    ]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("z", dtype, out)],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("name", BACKENDS_FP32)
def test_a_large_batch_is_computed_in_parts_where_that_is_faster(name, compact, monkeypatch):
    lr = np.random.default_rng(5).random((5, 3, 7, 11), dtype=np.float32)
    monkeypatch.setattr(base, "_CPU_PIXELS", 2 * 7 * 11 + 1)
    with open_runner(compact, name, device="cpu") as runner:
        shapes, infer = [], runner._infer
        monkeypatch.setattr(runner, "_infer", lambda part: shapes.append(part.shape) or infer(part))
        sr = runner.infer(lr)
        assert [shape[0] for shape in shapes] == ([5] if name == "openvino:fp32" else [2, 2, 1])
        for one, result in zip(lr, sr, strict=True):
            np.testing.assert_allclose(result, runner.infer(one[None])[0], atol=1e-6)


def test_a_batch_whose_result_does_not_fit_is_called_out_of_memory(compact, monkeypatch):
    monkeypatch.setattr(base, "_CPU_PIXELS", 1)
    lr = np.broadcast_to(np.float32(0), (1 << 38, 3, 7, 11))
    with open_runner(compact, "onnxruntime:fp32") as runner, pytest.raises(OutOfMemoryError):
        runner.infer(lr)


def test_every_architecture_gives_the_same_on_every_cpu_backend(each_exported, make_bundle, tmp_path):
    name = each_exported.path.stem
    model = open_model(make_bundle(name, tmp_path).path)
    multiple, spec = model.input_multiple, each_exported.spec
    random = np.random.default_rng(1)
    for n, h, w in ((1, 7, 11), (2, 6, 5)):
        lr = random.random((n, spec.channels, h * multiple, w * multiple), dtype=np.float32)
        with torch.no_grad():
            expected = each_exported.network(torch.from_numpy(lr)).numpy()
        for choice in BACKENDS_FP32:
            with open_runner(model, choice) as runner:
                sr = runner.infer(lr)
            assert sr.shape == (n, spec.channels, h * multiple * spec.scale, w * multiple * spec.scale)
            assert sr.dtype == np.float32
            assert np.abs(sr - expected).max() <= 1e-5, choice


def test_the_protocol_is_kept_by_all(compact):
    choices = runnable_choices(compact)
    assert [str(choice) for choice in choices][:5] == [
        "torch:fp32",
        "torch:fp16",
        "torch:bf16",
        "onnxruntime:fp32",
        "onnxruntime:fp16",
    ]
    assert BackendChoice("openvino", "fp32") in choices
    for choice in choices:
        with open_runner(compact, choice, device="cpu") as runner:
            assert isinstance(runner, Runner)
            assert str(runner.spec) == str(choice)
            assert (runner.spec.device, runner.spec.scale, runner.spec.channels) == ("cpu", 4, 3)
            assert runner.spec.version[0].isdigit()
            assert runner.spec.artifact.is_file()


@pytest.mark.parametrize("choice", BACKENDS_FP32)
def test_wrong_inputs_are_refused_before_the_backend_sees_them(compact, lr, choice):
    with open_runner(compact, choice) as runner:
        with pytest.raises(InputError, match="takes a float32 array in \\[0, 1\\], not float64"):
            runner.infer(lr.astype(np.float64))
        with pytest.raises(ShapeError, match="takes 3 channels, not 1"):
            runner.infer(lr[:, :1])
        with pytest.raises(ShapeError, match="N x C x H x W"):
            runner.infer(lr[0])
    with pytest.raises(BackendError, match=f"this {choice} runner is closed"):
        runner.infer(lr)
    with pytest.raises(BackendError, match="closed"), runner:
        pass


def test_sides_that_are_no_multiple_are_refused(make_bundle, tmp_path):
    model = open_model(make_bundle("rrdbnet-x2", tmp_path).path)
    for choice in BACKENDS_FP32:
        with open_runner(model, choice) as runner, pytest.raises(ShapeError, match="multiples of 2, not 7x8"):
            runner.infer(np.zeros((1, 3, 7, 8), np.float32))


def test_arrays_that_are_not_contiguous_are_taken(compact, lr):
    for choice in BACKENDS_FP32:
        with open_runner(compact, choice) as runner:
            turned = np.ascontiguousarray(lr.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
            np.testing.assert_array_equal(runner.infer(turned), runner.infer(lr))


def test_results_are_the_callers_to_keep(compact, lr):
    for choice in BACKENDS_FP32:
        with open_runner(compact, choice) as runner:
            first = runner.infer(lr)
            kept = first.copy()
            runner.infer(1 - lr)
        np.testing.assert_array_equal(first, kept)
        assert first.flags.writeable


def test_fp16_runs_the_fp16_graph(compact, lr):
    with open_runner(compact, "onnxruntime:fp32") as exact, open_runner(compact, "onnxruntime:fp16") as half:
        assert exact.spec.artifact.name == "model.fp32.onnx"
        assert half.spec.artifact.name == "model.fp16.onnx"
        comparison = compare_outputs(half.infer(lr), exact.infer(lr))
    assert 0 < comparison.max_abs < 5e-3
    assert comparison.psnr_db > 55


def test_torch_fp16_is_true_half(compact, lr):
    network = compact.load_network().half()
    with torch.no_grad():
        expected = network(torch.from_numpy(lr).half()).float().numpy()
    with open_runner(compact, "torch:fp16") as half, open_runner(compact, "torch:fp32") as exact:
        sr, reference = half.infer(lr), exact.infer(lr)
    assert np.array_equal(sr, sr.astype(np.float16))  # every value is one that FP16 holds
    assert not np.array_equal(sr, reference)
    assert np.abs(sr - expected).max() < 2e-3  # layouts differ in the order of sums, by an FP16 step or two


def test_torch_fp32_stays_fp32_whatever_the_process_allows(compact, lr):
    switch = torch.backends.mkldnn.conv
    before = switch.fp32_precision
    with open_runner(compact, "torch:fp32") as runner:
        expected = runner.infer(lr)
        switch.fp32_precision = "bf16"
        try:
            np.testing.assert_array_equal(runner.infer(lr), expected)
            assert switch.fp32_precision == "bf16"  # the process's own choice is back afterwards
        finally:
            switch.fp32_precision = before


def test_openvino_bf16_is_asked_for_and_fp32_stays_fp32(compact, lr):
    if why_not_computed(BackendChoice("openvino", "bf16")):
        with pytest.raises(BackendError, match="needs a CPU with bf16 instructions"):
            open_runner(compact, "openvino:bf16")
        return
    with open_runner(compact, "torch:fp32") as exact, open_runner(compact, "openvino:fp32") as plain:
        expected = exact.infer(lr)
        assert np.abs(plain.infer(lr) - expected).max() < 1e-5  # its own default here would be bf16
    with open_runner(compact, "openvino:bf16") as rough:
        assert rough.spec.artifact.name == "model.fp32.onnx"
        comparison = compare_outputs(rough.infer(lr), expected)
    assert comparison.max_abs > 1e-4
    assert comparison.psnr_db > 35


def test_openvino_does_not_call_fp32_fp16(compact):
    with pytest.raises(BackendError, match="computes FP16 graphs in FP32; use openvino:fp32"):
        open_runner(compact, "openvino:fp16")


@without_gpu
@pytest.mark.parametrize("choice", ["tensorrt:fp16", "tensorrt-rtx:fp32"])
def test_engines_need_a_gpu(compact, choice):
    with pytest.raises(BackendError, match=f"{choice} needs an NVIDIA GPU, and this machine shows none") as raised:
        open_runner(compact, choice)
    assert "\n" not in str(raised.value)


@without_gpu
def test_a_device_that_is_not_there_is_never_replaced_by_another(compact):
    with pytest.raises(BackendError, match="torch cannot use 'cuda:0'"):
        open_runner(compact, "torch:fp32", device="cuda:0")
    with pytest.raises(BackendError, match=r"onnxruntime cannot use 'cuda:0': .*CUDA provider"):
        open_runner(compact, "onnxruntime:fp32", device="cuda:0")
    with pytest.raises(BackendError, match="openvino runs on the CPU here"):
        open_runner(compact, "openvino:fp32", device="cuda:0")
    with pytest.raises(BackendError, match="runs on cpu or cuda here"):
        open_runner(compact, "onnxruntime:fp32", device="tpu")


def test_reasons_name_what_is_missing(compact, exported):
    graph = open_model(exported("compact-x4").path)
    assert "has none: give the checkpoint or a bundle" in why_not_runnable(graph, BackendChoice("torch"))
    assert "needs a graph in fp16" in why_not_runnable(graph, BackendChoice("onnxruntime", "fp16"))
    assert "torch runs fp32, fp16 and bf16" in why_not_runnable(compact, BackendChoice("torch", "int8"))
    weights = open_model(compact.weights_path)
    assert "make a bundle with: sr-deploy export" in why_not_runnable(weights, BackendChoice("openvino"))
    assert {choice.backend for choice in runnable_choices(weights)} == {"torch"}
    assert "torch" not in {choice.backend for choice in runnable_choices(graph)}


def test_a_graph_with_fixed_axes_says_so(tmp_path):
    path = make_graph(tmp_path / "fixed.onnx", [1, 3, 6, 5])
    lr = np.random.default_rng(0).random((1, 3, 6, 5), dtype=np.float32)
    results = []
    for choice in ("onnxruntime:fp32", "openvino:fp32"):
        with open_runner(path, choice) as runner:
            results.append(runner.infer(lr))
            with pytest.raises(ShapeError, match=r"1x6x6 lies outside .*: fixed=1x6x5,1x6x5,1x6x5"):
                runner.infer(np.zeros((1, 3, 6, 6), np.float32))
    np.testing.assert_allclose(results[0], results[1], atol=1e-6)
    batch_of_one = make_graph(tmp_path / "one.onnx", [1, 3, "h", "w"])
    with open_runner(batch_of_one, "onnxruntime") as runner:
        assert runner.infer(np.zeros((1, 3, 9, 4), np.float32)).shape == (1, 3, 18, 8)
        with pytest.raises(ShapeError, match="2x9x4 lies outside"):
            runner.infer(np.zeros((2, 3, 9, 4), np.float32))


def test_a_graph_with_fp16_io_takes_and_gives_float32(tmp_path):
    path = make_graph(tmp_path / "half.onnx", ["n", 3, "h", "w"], TensorProto.FLOAT16)
    full = make_graph(tmp_path / "full.onnx", ["n", 3, "h", "w"])
    lr = np.random.default_rng(0).random((1, 3, 8, 8), dtype=np.float32)
    with open_runner(path, "onnxruntime:fp16") as half, open_runner(full, "onnxruntime:fp32") as exact:
        sr = half.infer(lr)
        assert sr.dtype == np.float32
        assert 0 < np.abs(sr - exact.infer(lr)).max() < 2e-3


def test_an_operator_that_a_backend_does_not_know_is_its_error(compact, monkeypatch, tmp_path):
    broken = tmp_path / "broken.onnx"
    make_graph(broken, [1, 3, 4, 4], operator="NoSuchOperator")
    monkeypatch.setattr(type(compact), "graph_path", lambda *_: broken)
    for choice in ("onnxruntime:fp32", "openvino:fp32"):
        with pytest.raises(GraphError, match="NoSuchOperator"):  # nobody knows it: the file's own
            open_runner(compact, choice)
    model = onnx.load(make_graph(broken, [1, 3, 4, 4]))
    model.graph.node[1].input[0] = "b"
    for name, source, kind in (("a", "y", TensorProto.BFLOAT16), ("b", "r", TensorProto.FLOAT)):
        model.graph.node.insert(1, helper.make_node("Cast", [source], [name], to=kind))
    model.graph.node.append(helper.make_node("Relu", ["a"], ["r"]))  # which ONNX Runtime has in BF16 on no CPU
    onnx.save(model, broken)
    with pytest.raises(BackendError, match=r"onnxruntime cannot load .*broken\.onnx") as raised:
        open_runner(compact, "onnxruntime:fp32")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("choice", ["onnxruntime:fp32", "onnxruntime:fp16", "openvino:fp32"])
def test_graph_backends_import_no_torch(compact, choice):
    program = (
        "import sys, numpy as np\n"
        "from sr_deploy.runners import open_runner\n"
        f"with open_runner({str(compact.path)!r}, {choice!r}) as runner:\n"
        "    print(runner.infer(np.zeros((1, 3, 5, 6), np.float32)).shape, 'torch' in sys.modules)\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "(1, 3, 20, 24) False"


SIGNALLED = """
import os, signal, sys
from sr_deploy.runners import open_runner

first, second = (open_runner(sys.argv[1], choice) for choice in ("openvino:fp32", "openvino:bf16"))
first.close()
second.close()
signal.signal(signal.SIGINT, lambda *_: print("interrupted"))
os.kill(os.getpid(), signal.SIGINT)
print("and went on")
"""


def test_ctrl_c_is_heard_after_several_openvino_runners(compact):
    if why_not_computed(BackendChoice("openvino", "bf16")) is not None:
        pytest.skip(str(why_not_computed(BackendChoice("openvino", "bf16"))))
    command = [sys.executable, "-c", SIGNALLED, str(compact.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "interrupted\nand went on\n")
