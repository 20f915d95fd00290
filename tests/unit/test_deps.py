import sys

import pytest

from sr_deploy import deps
from sr_deploy.errors import MissingDependencyError


def test_absent_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)  # what Python itself does for "not importable"
    with pytest.raises(
        MissingDependencyError,
        match=r"the fast CPU backend needs openvino, which .*run: pip install 'sr-deploy\[openvino\]'",
    ):
        deps.require("openvino", "the fast CPU backend")


def test_versions_come_from_the_metadata_without_an_import():
    import onnx

    assert deps.installed_version("onnx") == onnx.__version__
    assert deps.installed_version("tensorrt") is None or not deps.installed_version("tensorrt").startswith("0")
