"""What engines say of their layers, in the words of TensorRT 10 and 11; opening one needs its GPU (tests/gpu)."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from sr_deploy.backends.tensorrt import inspection
from sr_deploy.backends.tensorrt.inspection import describe_layers, inspect_engine
from sr_deploy.gpus import Gpu


def convolution(**output: Any) -> dict[str, Any]:
    """A layer as TensorRT describes it in detail."""
    return {
        "Name": "conv_3 + relu_3",
        "LayerType": "CaskConvolution",
        "Inputs": [{"Name": "x", "Dimensions": [1, 64, 64, 64], **output}],
        "Outputs": [{"Name": "y", "Dimensions": [1, 64, 64, 64], **output}],
        "Kernel": [3, 3],
        "Weights": {"Type": "Half", "Count": 36864},
        "Bias": {"Type": "Half", "Count": 64},
        "TacticName": "sm89_xmma_fprop_implicit_gemm_f16f16",
        "TacticValue": "0x5f4cd8c5fa63a3b5",
    }


TEN = {"Format/Datatype": "Half"}
ELEVEN = {"Format": "Channel major FP16 format where channel % 8 == 0", "Datatype": "Half"}
UNCHOSEN = {"Format/Datatype": "N/A due to dynamic shapes"}
SHUFFLE = {"Name": "shuffle", "LayerType": "Shuffle", "Outputs": [{"Format/Datatype": "Float"}], "TacticName": ""}


@pytest.mark.parametrize("output", [TEN, ELEVEN], ids=["TensorRT 10", "TensorRT 11"])
def test_types_weights_and_kernels_are_counted(output: dict[str, str]) -> None:
    layers = [convolution(**output), convolution(**output), SHUFFLE]
    assert describe_layers(json.dumps({"Layers": layers, "Bindings": ["lr", "sr"]})) == (
        "2 Half, 1 Float; weights 2 Half; kernels sm89_xmma_fprop_implicit_gemm_f16f16 (2)"
    )


def test_without_chosen_shapes_types_are_no_types() -> None:
    assert describe_layers(json.dumps({"Layers": [convolution(**UNCHOSEN)]})).startswith("1 unnamed; weights 1 Half")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ('{"Layers": [{"Name": "a\nb"', "not JSON"),
        ("[1, 2]", "names no layers"),
        ('{"Layers": []}', "names no layers"),
        ('{"Layers": ["conv_3", "relu_3"]}', "names no layers in detail"),
        ('{"Layers": {"a": 1}}', "names no layers"),
    ],
)
def test_what_says_nothing_is_not_inspected_and_no_error(text: str, reason: str) -> None:
    said = describe_layers(text)
    assert said.startswith("not inspected: ")
    assert reason in said


@pytest.mark.parametrize("layer", [{}, {"Outputs": "y"}, {"Outputs": [7]}, {"Outputs": [{}], "Weights": 3}])
def test_odd_layers_are_unnamed(layer: dict[str, Any]) -> None:
    assert describe_layers(json.dumps({"Layers": [layer]})).startswith("1 unnamed")


class Engine:
    """An engine with dynamic shapes: its inspector knows types once it has a context with shapes."""

    num_io_tensors = 2
    starts = True

    def __init__(self) -> None:
        self.execution_context: Any = None
        self.shapes: dict[str, tuple[int, ...]] = {}

    def get_tensor_name(self, index: int) -> str:
        return ("lr", "sr")[index]

    def get_tensor_mode(self, name: str) -> str:
        return {"lr": "in", "sr": "out"}[name]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert (name, profile) == ("lr", 0)
        return [(1, 3, 8, 8), (1, 3, 16, 16), (1, 3, 32, 32)]

    def create_execution_context(self) -> Engine | None:
        return self if self.starts else None

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return True

    def create_engine_inspector(self) -> Engine:
        return self

    def get_engine_information(self, form: str) -> str:
        assert form == "json"
        known = self.execution_context is self and self.shapes == {"lr": (1, 3, 16, 16)}
        return json.dumps({"Layers": [convolution(**(ELEVEN if known else UNCHOSEN))]})


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Engine:
    engine = Engine()
    monkeypatch.setattr(inspection, "open_engine", lambda *_: engine)
    monkeypatch.setattr("sr_deploy.gpus._ask_once", lambda: (Gpu("NVIDIA GeForce RTX 4090", "sm89"),))
    return engine


SDK = SimpleNamespace(
    TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"), LayerInformationFormat=SimpleNamespace(JSON="json")
)


def test_shapes_are_chosen_before_the_engine_is_asked(opened: Engine) -> None:
    assert inspect_engine(SDK, b"").startswith("1 Half; ")  # type: ignore[arg-type]


def test_an_engine_that_does_not_start_is_not_inspected(opened: Engine) -> None:
    opened.starts = False
    assert inspect_engine(SDK, b"") == "not inspected: the engine does not open on this GPU"  # type: ignore[arg-type]
