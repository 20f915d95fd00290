"""The runner of engines with an SDK and a GPU that are made up."""

from __future__ import annotations

import dataclasses
import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch

from sr_deploy.backends import BackendChoice
from sr_deploy.backends.tensorrt.runner import TensorRtRunner
from sr_deploy.bundle import open_bundle, parse_profile
from sr_deploy.errors import BackendError, InputError, OutOfMemoryError, OutputError, ShapeError
from sr_deploy.model import open_model
from sr_deploy.runners import open_runner
from sr_deploy.upscale.image import Upscaler
from sr_deploy.verification.entry import name_machine
from tests.unit.gpu import stub_sdk
from tests.unit.gpu.conftest import add_engine
from tests.unit.gpu.stub_sdk import OUT_OF_MEMORY, Stub, repeat
from tests.unit.gpu.tensors import pictures

PROFILES = (parse_profile("tile=1x8x8,1x16x16,1x32x32"), parse_profile("large=1x8x8,2x48x48,4x64x64"))


@pytest.fixture(scope="module")
def kept(make_bundle, tmp_path_factory):
    return make_bundle("compact-x4", tmp_path_factory.mktemp("stub"), fp16=True)


@pytest.fixture
def bundle(kept, tmp_path):
    """A copy."""
    shutil.copytree(kept.path, tmp_path / "bundle")
    return open_bundle(tmp_path / "bundle")


@pytest.fixture
def stub(gpu):
    return Stub(gpu, lambda lr: repeat(lr, 4), PROFILES, scale=4)


def open_engine(bundle, choice="tensorrt:fp32", **options: Any) -> TensorRtRunner:
    runner = open_runner(open_model(bundle.path), choice, **options)
    assert isinstance(runner, TensorRtRunner)
    return runner


def lr_of(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).random(shape, np.float32)


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_an_engine_gives_the_same_as_it_is_and_replayed(bundle, stub, install_sdk, backend):
    install_sdk(stub, backend)
    add_engine(bundle, backend, profiles=PROFILES)
    lr = lr_of(1, 3, 16, 20)
    with open_engine(bundle, f"{backend}:fp32") as runner:
        results = [runner.infer(lr) for _ in range(3)]
        assert runner._graphs.captured == 1
        assert (runner.spec.version, runner.spec.device) == ("11.4.0.106", "cuda:0")
        with pytest.raises(ShapeError, match="lies outside"):
            runner.infer(lr_of(1, 3, 80, 80))
    for sr in results:
        assert np.array_equal(sr, repeat(lr, 4))
    cache = list((bundle.path / "caches").glob("*.runtime"))
    assert [path.read_bytes() for path in cache] == [b"kernels that were compiled"] * (backend == "tensorrt-rtx")
    with pytest.raises(BackendError, match="is closed"):
        runner.infer(lr)


@pytest.mark.parametrize(("dtype", "name"), [("HALF", "float16"), ("UINT8", "uint8")])
def test_every_io_dtype(bundle, stub, install_sdk, dtype, name):
    stub.dtype = dtype
    install_sdk(stub)
    add_engine(bundle, precision="fp16")
    whole = pictures(1, 16, 16, 3)[0]
    lr = np.ascontiguousarray(whole.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
    with open_engine(bundle, "tensorrt:fp16") as runner:
        assert runner.spec.dtype == name
        assert np.abs(runner.infer(lr) - repeat(lr, 4)).max() < 1e-3
        with pytest.raises(InputError, match=rf"takes torch\.{name} on cuda:0, not torch\.float64 on cuda:0"):
            runner.infer_on_device(torch.from_numpy(lr).to("cuda:0", torch.float64))
        with Upscaler(bundle.path, backend="tensorrt:fp16", tile=16) as upscale:
            assert np.array_equal(upscale(whole), whole.repeat(4, axis=0).repeat(4, axis=1))


def test_profiles_are_switched_only_where_the_shape_wants_it(bundle, stub, install_sdk):
    install_sdk(stub)
    add_engine(bundle, profiles=PROFILES)
    shapes = [(1, 3, 16, 16), (2, 3, 40, 40), (1, 3, 20, 20), (1, 3, 64, 64), (4, 3, 64, 64)]
    with open_engine(bundle) as runner:
        for shape in shapes:
            assert np.array_equal(runner.infer(lr_of(*shape)), repeat(lr_of(*shape), 4))
    assert stub.calls.count("set_optimization_profile_async") == 3
    assert stub.calls.count("create_execution_context") == 1  # no shape came twice


def test_each_graph_has_a_context_and_all_of_them_one_piece_of_memory(bundle, stub, install_sdk, gpu):
    stub.work_bytes = 2**20
    install_sdk(stub)
    add_engine(bundle, profiles=PROFILES)
    before = gpu.taken
    with open_engine(bundle) as runner:
        assert 2**20 <= gpu.taken - before < 2**20 + 4096
        for _ in range(3):
            for side in (16, 24, 32, 40, 48, 56):  # of more shapes than are kept
                lr = lr_of(1, 3, side, side)
                assert np.array_equal(runner.infer(lr), repeat(lr, 4))
        for _ in range(3):
            for side in (16, 24, 32, 40):
                lr = lr_of(1, 3, side, side)
                assert np.array_equal(runner.infer(lr), repeat(lr, 4))
        assert runner._graphs.captured == 4
        assert stub.calls.count("create_execution_context") == 5
        assert "memory of a context alone" not in stub.calls
        assert gpu.taken - before < 2**20 + 4 * (3 * 40 * 40 * 4 * 2) + 2**16
    assert gpu.taken - before < 2**16


def test_what_an_engine_says_of_a_failure_is_in_the_error(bundle, stub, install_sdk):
    install_sdk(stub)
    add_engine(bundle)
    stub.refuses = {"deserialize_cuda_engine": "magicTag: wrong"}
    with pytest.raises(BackendError, match=r"cannot load .*\.engine \(magicTag: wrong\); build it again"):
        open_engine(bundle)
    stub.refuses = {"create_execution_context": OUT_OF_MEMORY}
    with pytest.raises(OutOfMemoryError, match="could not start the engine on this GPU"):
        open_engine(bundle)
    stub.refuses = {}
    with open_engine(bundle) as runner:
        stub.allows("a call before", f"{OUT_OF_MEMORY} of a call before, which went well in the end")
        for call in ("set_input_shape", "set_tensor_address", "execute_async_v3"):
            for said, kind in ((OUT_OF_MEMORY, OutOfMemoryError), ("Error Code 1: Cask", BackendError)):
                stub.refuses = {call: said}
                with pytest.raises(BackendError) as caught:
                    runner.infer(lr_of(1, 3, 16, 16))
                assert (type(caught.value), said in str(caught.value)) == (kind, True)
                assert "1x3x16x16" in str(caught.value)
                assert "call before" not in str(caught.value)
        stub.refuses = {}
        assert np.array_equal(runner.infer(lr_of(1, 3, 16, 16)), repeat(lr_of(1, 3, 16, 16), 4))


def test_a_driver_that_is_too_old_is_an_error_and_no_end_of_the_process(bundle, stub, install_sdk):
    """As TensorRT 11.4 has it: a runtime comes back, and nothing is behind it; or none does."""
    install_sdk(stub)
    add_engine(bundle)
    stub.refuses = {"Runtime": "createInferRuntime: Error Code 6: API Usage Error (CUDA initialization failure: 35)"}
    with pytest.raises(BackendError, match=r"does not start here: createInferRuntime: .* failure: 35"):
        open_engine(bundle)
    stub.refuses = {"no runtime": ""}
    with pytest.raises(BackendError, match="tensorrt does not start here: it gave no runtime"):
        open_engine(bundle)


def test_memory_that_is_not_there_is_said_before_anything_runs(bundle, stub, install_sdk, gpu):
    stub.work_bytes, gpu.capacity = 2**30, 2**20
    install_sdk(stub)
    add_engine(bundle)
    with pytest.raises(OutOfMemoryError, match=r"tensorrt:fp32 takes 1\.00 GiB of GPU memory to work in"):
        open_engine(bundle)


@pytest.mark.parametrize("batch", [1, 3])
def test_tiles_are_halved_where_the_engine_runs_out_of_memory(bundle, stub, install_sdk, batch):
    stub.max_pixels = 24 * 24
    install_sdk(stub)
    add_engine(bundle, profiles=PROFILES)
    lr = pictures(1, 100, 90, 3)[0]
    with Upscaler(bundle.path, backend="tensorrt:fp32", tile=40, halo=2, batch=batch) as upscale:
        upscaled = upscale.upscale(lr)
    assert upscaled.report.halvings >= 1
    assert upscaled.report.tile_limit == 20
    assert np.array_equal(upscaled.image, lr.repeat(4, axis=0).repeat(4, axis=1))


def test_weights_that_were_left_out_are_put_back(bundle, stub, install_sdk):
    stub.stripped = True
    install_sdk(stub)
    add_engine(bundle, flags={"strip_weights": "on"})
    lr = lr_of(1, 3, 16, 16)
    with open_engine(bundle) as runner:
        assert np.array_equal(runner.infer(lr), repeat(lr, 4))
    for call in ("refit_from_file", "refit_cuda_engine"):
        stub.refuses = {call: "no such weights"}
        with pytest.raises(BackendError, match=r"the weights of .*model\.fp32\.onnx into the engine \(no s"):
            open_engine(bundle)


def test_the_second_gpu_has_an_engine_of_its_own(bundle, stub, install_sdk):
    install_sdk(stub)
    add_engine(bundle)
    with pytest.raises(BackendError, match="for NVIDIA GeForce RTX 4090, and this GPU is NVIDIA H100"):
        open_engine(bundle, device="cuda:1")
    add_engine(bundle, target="NVIDIA H100 80GB HBM3")
    lr = pictures(1, 30, 30, 3)[0]
    with Upscaler(bundle.path, backend="tensorrt:fp32", device="cuda:1", tile=16) as upscale:
        assert np.array_equal(upscale(lr), lr.repeat(4, axis=0).repeat(4, axis=1))
        assert upscale.spec.device == "cuda:1"
        assert name_machine(upscale.spec) == "NVIDIA H100 80GB HBM3"  # as a certificate names it
    with open_engine(bundle, device="cuda") as runner:  # without a number it is the first
        on_device = torch.from_numpy(lr_of(1, 3, 16, 16)).to("cuda:0")
        assert np.array_equal(runner.infer_on_device(on_device).cpu().numpy(), repeat(lr_of(1, 3, 16, 16), 4))


@pytest.mark.parametrize(("device", "number"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), (None, 0)])
def test_pytorch_takes_a_gpu_with_and_without_its_number(bundle, gpu, device, number):
    lr = lr_of(1, 3, 16, 16)
    with open_runner(open_model(bundle.path), "torch:fp32", device=device) as runner:
        assert runner.spec.device == f"cuda:{number}"
        on_device = torch.from_numpy(lr).to(torch.device("cuda", number))
        assert np.array_equal(runner.infer_on_device(on_device).cpu().numpy(), runner.infer(lr))
        with pytest.raises(InputError, match="move it first"):
            runner.infer_on_device(torch.from_numpy(lr).to(torch.device("cuda", 1 - number)))


def test_auto_takes_the_fastest_that_the_certificate_covers(bundle, stub, install_sdk, monkeypatch):
    """From a certificate of this very GPU to what runs; times are measured, as far as they mean anything."""
    from sr_deploy.backends.registry import parse_backend
    from sr_deploy.upscale.backend import choose_backend, list_candidates
    from sr_deploy.verification.verify import verify_model

    network = open_runner(open_model(bundle.path), "torch:fp32", device="cpu")
    stub.compute = network.infer
    install_sdk(stub)
    add_engine(bundle)
    add_engine(bundle, precision="fp16")
    monkeypatch.setattr("sr_deploy.runners.fastest.read_kept", lambda *_: (None, ""))
    candidates, card = list_candidates(open_model(bundle.path))
    assert [str(choice) for choice in candidates] == ["tensorrt:fp32", "torch:fp32"]
    assert card.name == "NVIDIA GeForce RTX 4090"
    verify_model(bundle.path, choices=[parse_backend("tensorrt:fp16")])
    entries = bundle.stated_certificate().entries
    assert [(one.backend, one.machine, one.passed) for one in entries if "tensorrt" in one.backend] == [
        ("tensorrt:fp16", "NVIDIA GeForce RTX 4090", True)
    ]
    candidates, _ = list_candidates(open_model(bundle.path))
    assert [str(choice) for choice in candidates] == ["tensorrt:fp16", "tensorrt:fp32", "torch:fp32"]
    assert choose_backend(open_model(bundle.path), "auto") in candidates


def test_the_inspector_is_asked_with_a_context_that_has_shapes(stub, install_sdk):
    from sr_deploy.backends.tensorrt.inspection import inspect_engine

    layer = {"Name": "conv", "Outputs": [{"Format": "row major", "Datatype": "Half"}], "TacticName": "sm89_xmma"}
    stub.layers = json.dumps({"Layers": [layer]})
    sdk = install_sdk(stub)
    assert inspect_engine(sdk, b"engine") == "1 Half; kernels sm89_xmma (1)"
    stub.refuses = {"create_execution_context": "no"}
    assert inspect_engine(sdk, b"engine") == "not inspected: the engine does not open on this GPU"


def test_a_choice_names_its_module_version(bundle, stub, install_sdk):
    """Whatever distribution brought `tensorrt`: the package itself says which it is."""
    from sr_deploy.backends.builders import sdk_version

    install_sdk(stub, version="10.13.3.9")
    assert sdk_version("tensorrt") == "10.13.3.9"
    record = add_engine(bundle, backend_version="10.13.3.9")
    with open_engine(bundle) as runner:
        assert runner.spec.version == record.backend_version
    assert dataclasses.replace(runner.spec.choice) == BackendChoice("tensorrt")


def test_a_profile_that_cannot_be_chosen_is_named(bundle, stub, install_sdk):
    install_sdk(stub)
    add_engine(bundle, profiles=PROFILES)
    stub.refuses = {"set_optimization_profile_async": "the stream is not valid"}
    with open_engine(bundle) as runner, pytest.raises(BackendError, match=r"to the profile large \(the stream is not"):
        runner.infer(lr_of(1, 3, 64, 64))


def test_memory_of_pytorch_that_is_spent_is_want_of_memory(bundle, stub, install_sdk, gpu):
    install_sdk(stub)
    add_engine(bundle)
    with open_engine(bundle) as runner:
        gpu.capacity = gpu.taken + 4 * 3 * 16 * 16  # the input, and no result
        with pytest.raises(OutOfMemoryError, match="tensorrt:fp32 failed on 1x3x16x16: CUDA out of memory"):
            runner.infer(lr_of(1, 3, 16, 16))
        gpu.capacity = 2**40
        assert np.array_equal(runner.infer(lr_of(1, 3, 16, 16)), repeat(lr_of(1, 3, 16, 16), 4))


def test_what_no_engine_can_run_on_is_said(bundle, stub, install_sdk, monkeypatch):
    install_sdk(stub)
    add_engine(bundle)
    with pytest.raises(BackendError, match="there is no cuda:5 here; CUDA sees 2 GPUs, from cuda:0 on"):
        open_engine(bundle, device="cuda:5")
    stub.dtype = "BF16"
    with pytest.raises(BackendError, match=r"lr is DataType\.BF16; FLOAT, HALF, UINT8 are taken"):
        open_engine(bundle)
    with monkeypatch.context() as patch:  # undone before the simulated GPU is, whose own it replaces
        patch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(BackendError, match=r"sees no GPU, .*; install a CUDA build"):
            open_engine(bundle)


def test_kernels_that_do_not_suit_are_compiled_anew(bundle, stub, install_sdk, monkeypatch, caplog):
    install_sdk(stub, "tensorrt-rtx")
    add_engine(bundle, "tensorrt-rtx")
    for _ in range(2):
        open_engine(bundle, "tensorrt-rtx:fp32").close()
    (path,) = (bundle.path / "caches").glob("*.runtime")
    monkeypatch.setattr(stub_sdk.IRuntimeCache, "deserialize", lambda self, blob: False)
    monkeypatch.setattr(stub_sdk.IRuntimeCache, "serialize", lambda self: b"of this GPU")
    with caplog.at_level("DEBUG", logger="sr_deploy"), open_engine(bundle, "tensorrt-rtx:fp32"):
        assert f"{path} does not suit this machine; kernels are compiled anew" in caplog.text
    assert path.read_bytes() == b"of this GPU"
    with open_engine(bundle, "tensorrt-rtx:fp32") as runner:
        monkeypatch.setattr(stub_sdk.IRuntimeCache, "serialize", lambda self: b"others")
        monkeypatch.setattr(type(bundle), "write_cache", refuse_to_write)
        assert runner.spec.precision == "fp32"
    assert "compiled kernels are not kept: the disk is full" in caplog.text
    monkeypatch.setattr(stub_sdk.IRuntimeConfig, "set_runtime_cache", lambda self, cache: False)
    with pytest.raises(BackendError, match="did not take a runtime cache"):
        open_engine(bundle, "tensorrt-rtx:fp32")


def refuse_to_write(*_: object) -> None:
    raise OutputError("the disk is full")
