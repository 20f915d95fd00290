"""What only a GPU can run. Not executed while it was written: no machine with one was at hand."""

import numpy as np
import pytest
import torch

from sr_deploy.arch.spec import ArchSpec
from sr_deploy.backends import BackendChoice
from sr_deploy.backends.builders import why_not_buildable
from sr_deploy.backends.onnxruntime.runner import why_no_cuda_provider
from sr_deploy.backends.registry import builder_names
from sr_deploy.deploy import export_bundle
from sr_deploy.errors import InputError, ShapeError
from sr_deploy.export.spec import load_spec
from sr_deploy.gpus import visible_gpus
from sr_deploy.measure.compare import compare_outputs
from sr_deploy.model import open_model
from sr_deploy.runners import open_runner, why_not_runnable
from sr_deploy.runners.protocol import DeviceRunner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no NVIDIA GPU"),
]


SPEC = ArchSpec(architecture="compact", scale=4, features=16, blocks=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory, write_network):
    folder = tmp_path_factory.mktemp("gpu")
    write_network(folder / "net.safetensors", SPEC)
    export_bundle(folder / "net.safetensors", load_spec().with_options(fp16=True), folder / "bundle")
    return open_model(folder / "bundle")


@pytest.fixture
def lr():
    return np.random.default_rng(0).random((1, 3, 64, 96), dtype=np.float32)


def reference(model, lr):
    with open_runner(model, "torch:fp32", device="cpu") as runner:
        return runner.infer(lr)


def test_torch_on_the_gpu_agrees_with_the_cpu_without_tf32(model, lr):
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    with open_runner(model, "torch:fp32", device="cuda:0") as runner:
        assert isinstance(runner, DeviceRunner)
        sr = runner.infer(lr)
        on_device = runner.infer_on_device(torch.from_numpy(lr).cuda())
        with pytest.raises(InputError, match="takes a float32 tensor on cuda:0"):
            runner.infer_on_device(torch.from_numpy(lr))
    assert torch.backends.cudnn.conv.fp32_precision == "tf32"
    assert np.abs(sr - reference(model, lr)).max() <= 1e-5
    np.testing.assert_array_equal(on_device.cpu().numpy(), sr)


@pytest.mark.parametrize(("choice", "floor"), [("torch:fp16", 55), ("torch:bf16", 35)])
def test_low_precisions_on_the_gpu_are_near(model, lr, choice, floor):
    with open_runner(model, choice, device="cuda:0") as runner:
        assert compare_outputs(runner.infer(lr), reference(model, lr)).psnr_db > floor


def test_onnxruntime_runs_on_its_cuda_provider(model, lr):
    reason = why_no_cuda_provider()
    if reason:
        pytest.skip(reason)
    with open_runner(model, "onnxruntime:fp32", device="cuda:0") as runner:
        assert runner.spec.device == "cuda:0"
        assert np.abs(runner.infer(lr) - reference(model, lr)).max() <= 1e-5


@pytest.mark.parametrize("backend", builder_names())
@pytest.mark.parametrize(("precision", "floor"), [("fp32", 100), ("fp16", 55)])
def test_engines_agree_with_pytorch(model, lr, backend, precision, floor):
    choice = BackendChoice(backend, precision)
    reason = why_not_buildable(backend) or why_not_runnable(model, choice)
    if reason:
        pytest.skip(reason)
    with open_runner(model, choice) as runner:
        assert isinstance(runner, DeviceRunner)
        comparison = compare_outputs(runner.infer(lr), reference(model, lr))
        assert comparison.psnr_db is None or comparison.psnr_db > floor
        dtype = getattr(torch, runner.spec.dtype)
        on_device = [runner.infer_on_device(torch.from_numpy(lr).cuda().to(dtype)) for _ in range(3)]
        for sr in on_device:
            np.testing.assert_allclose(sr.float().cpu().numpy(), runner.infer(lr), atol=1e-3)
        with pytest.raises(ShapeError, match="lies outside"):
            runner.infer(np.zeros((1, 3, 8000, 8000), np.float32))


def test_compiled_kernels_are_kept_with_the_bundle(model, lr):
    choice = BackendChoice("tensorrt-rtx", "fp16")
    reason = why_not_buildable(choice.backend) or why_not_runnable(model, choice)
    if reason:
        pytest.skip(reason)
    outputs = []
    for _ in range(2):  # the second one starts with the first one's kernels
        with open_runner(model, choice) as runner:
            outputs.append(runner.infer(lr))
    (cache,) = (model.path / "caches").glob("*.runtime")
    assert cache.stat().st_size > 0
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize("backend", builder_names())
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_engines_take_and_give_8_bit_pictures(tmp_path, write_network, lr, backend, precision):
    reason = why_not_buildable(backend)
    if reason:
        pytest.skip(reason)
    write_network(tmp_path / "net.safetensors", SPEC)
    wanted = load_spec().with_options(fp16=True).model_copy(update={"io_dtype": "uint8"})
    export_bundle(tmp_path / "net.safetensors", wanted, tmp_path / "bundle", backend)
    model, choice = open_model(tmp_path / "bundle"), BackendChoice(backend, precision)
    reason = why_not_runnable(model, choice)
    if reason:
        pytest.skip(reason)
    whole = np.rint(lr * 255).astype(np.uint8)
    expected = np.clip(reference(model, whole.astype(np.float32) / 255), 0, 1)
    with open_runner(model, choice) as runner:
        assert (runner.spec.dtype, runner.spec.layout) == ("uint8", "NHWC")
        limit = 0.5 / 255 + (1e-5 if precision == "fp32" else 0.05)
        assert np.abs(runner.infer(whole.astype(np.float32) / 255) - expected).max() <= limit
        picture = torch.from_numpy(np.ascontiguousarray(whole.transpose(0, 2, 3, 1))).cuda()
        sr = runner.infer_on_device(picture)
        assert (sr.dtype, tuple(sr.shape)) == (torch.uint8, (1, 64 * 4, 96 * 4, 3))
        assert np.abs(sr.cpu().numpy().transpose(0, 3, 1, 2) / 255 - expected).max() <= limit
        with pytest.raises(InputError, match=r"takes torch\.uint8 on cuda:0"):
            runner.infer_on_device(picture.float())


@pytest.mark.parametrize("backend", builder_names())
def test_fp8_engines_compute_what_onnxruntime_does_with_the_same_graph(tmp_path, write_network, lr, backend):
    """On Ada, Hopper and Blackwell; older GPUs are refused by name."""
    reason = why_not_buildable(backend)
    if reason:
        pytest.skip(reason)
    write_network(tmp_path / "net.safetensors", SPEC.model_copy(update={"features": 32}))
    few = {"crops": 4, "search_crops": 2, "gate_crops": 2, "learn_steps": 2, "max_drop_db": 50, "max_pixel_error": 1}
    wanted = load_spec().with_options(fp8=True, int8_changes=few)
    result = export_bundle(tmp_path / "net.safetensors", wanted, tmp_path / "bundle", backend)
    if int(visible_gpus()[0].compute_capability.removeprefix("sm")) < 89:
        assert any("no FP8, which begins with sm89" in one.reason for one in result.not_built)
        return
    (record,) = (one for one in result.engines if one.precision == "fp8")
    assert record.multiply_add_shares["fp8"] > 0.8
    assert "FP8" in record.inspected
    model = open_model(tmp_path / "bundle")
    with open_runner(model, BackendChoice("onnxruntime", "fp8")) as runner:
        expected = runner.infer(lr)
    with open_runner(model, BackendChoice(backend, "fp8")) as runner:
        # Numbers between two E4M3 ones may be rounded either way.
        assert compare_outputs(runner.infer(lr), expected).psnr_db > 35
    entry = next(one for one in result.certificate if one.backend == f"{backend}:fp8")
    assert entry.passed
