"""What backends say of themselves, and that nothing of theirs is imported to hear it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sr_deploy.backends import BackendChoice
from sr_deploy.backends.registry import (
    builder_names,
    get_backend,
    get_builder,
    get_reference,
    list_backends,
    list_for_auto,
    list_mixed,
    parse_backend,
)
from sr_deploy.errors import InputError
from sr_deploy.runners.faithful import list_in_fp32, list_reduced


def test_no_library_is_imported_to_describe_them():
    code = (
        "import sys; from sr_deploy.backends.registry import list_backends; list_backends();"
        "print(sorted({'torch', 'onnxruntime', 'openvino', 'tensorrt_rtx', 'onnx', 'numpy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_there_is_one_reference_for_weights_and_one_for_graphs():
    assert [one.name for one in list_backends() if one.is_reference] == ["torch", "onnxruntime"]
    assert (get_reference("weights").name, get_reference("graph").name) == ("torch", "onnxruntime")
    assert get_reference("graph").open_graph is not None


@pytest.mark.parametrize("backend", list_backends(), ids=lambda one: one.name)
def test_a_description_agrees_with_itself(backend):
    offered = [choice for auto in backend.auto.values() for choice in auto.reduced] + [*backend.mixed]
    assert {choice.backend for choice in offered} <= {backend.name}
    assert all(backend.exists(choice.precision) and choice.precision != "fp32" for choice in offered)
    assert all(parse_backend(str(choice)) == choice for choice in offered)
    assert all(backend.exists("fp32") for _ in backend.auto)
    assert all(auto in backend.precisions for auto in backend.auto)
    assert (backend.artifact == "engine") == (backend.builder is not None)
    assert len({variant.name for variant in backend.variants}) == len(backend.variants)


def test_auto_takes_them_in_this_order():
    assert [str(choice) for choice in list_in_fp32("cpu")] == ["openvino:fp32", "onnxruntime:fp32", "torch:fp32"]
    assert [str(choice) for choice in list_reduced("cpu")] == [
        *("openvino:int8+bf16", "openvino:int8", "openvino:bf16", "onnxruntime:int8", "torch:bf16"),
    ]
    assert [one.name for one in list_for_auto("cuda")] == ["tensorrt", "tensorrt-rtx", "torch"]
    engines = [f"{name}:{precision}" for precision in ("int8", "fp8", "fp16", "bf16") for name in builder_names()]
    assert [str(choice) for choice in list_reduced("cuda")] == [*engines, "torch:fp16", "torch:bf16"]


@pytest.mark.parametrize(
    ("name", "precision", "device", "computed"),
    [
        ("torch", "fp16", "cpu", "fp16"),
        ("onnxruntime", "fp16", "cpu", "fp32"),
        ("onnxruntime", "fp16", "cuda", "fp16"),
        ("onnxruntime", "int8", "cpu", "int8"),
        ("openvino", "bf16", "cpu", "bf16"),
        ("openvino", "fp16", "cpu", "fp32"),  # of a layer: there is no openvino:fp16
        ("openvino", "fp8", "cpu", "fp32"),
        ("tensorrt", "fp8", "cuda", "fp8"),
    ],
)
def test_what_is_truly_computed(name, precision, device, computed):
    assert get_backend(name).computes_in(precision, device) == computed


def test_openvino_computes_in_bf16_what_is_stored_in_fp32():
    openvino, onnxruntime = get_backend("openvino"), get_backend("onnxruntime")
    assert openvino.find_stored(("fp32", "fp16"), "bf16") == "fp32"
    assert openvino.find_stored(("fp16",), "bf16") == openvino.find_stored(("fp16",), "fp32") == "fp16"
    assert onnxruntime.find_stored(("fp16",), "fp32") == "fp32"
    assert openvino.find_verified(("fp32", "bf16"), "bf16") == ("bf16",)
    assert openvino.find_verified(("fp32", "fp16"), "fp16") == ()
    assert openvino.find_verified(("fp16",), "fp16") == ("fp32",)
    assert not openvino.exists("fp16")
    assert list_mixed() == (BackendChoice("openvino", "int8", "bf16"),)


def test_what_builds_no_engines_is_refused():
    assert get_builder("tensorrt-rtx").find_difference
    assert get_builder("tensorrt").find_difference is None
    with pytest.raises(InputError, match="for 'torch'; they are for: tensorrt, tensorrt-rtx"):
        get_builder("torch")
