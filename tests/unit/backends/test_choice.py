import pytest

from sr_deploy.backends import BackendChoice
from sr_deploy.backends.registry import parse_backend
from sr_deploy.errors import InputError


def test_name_and_precision():
    assert parse_backend("openvino:int8") == BackendChoice("openvino", "int8")
    assert parse_backend("tensorrt-rtx") == BackendChoice("tensorrt-rtx", "fp32")
    assert str(parse_backend("torch:bf16")) == "torch:bf16"
    assert parse_backend("onnxruntime:fp8") == BackendChoice("onnxruntime", "fp8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cuda", r"unknown backend 'cuda'; known: torch, onnxruntime, openvino, tensorrt, tensorrt-rtx"),
        ("torch:half", r"unknown precision 'half' in 'torch:half'; known: fp32, fp16, bf16, int8, fp8"),
        ("torch:", r"unknown precision '' in 'torch:'"),
        ("", r"unknown backend ''"),
    ],
)
def test_unknown_words_are_answered_with_the_known(text, message):
    with pytest.raises(InputError, match=message):
        parse_backend(text)
