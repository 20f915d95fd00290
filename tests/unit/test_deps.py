import sys
from pathlib import Path

import pytest

from sr_deploy import deps
from sr_deploy.backends.registry import get_backend
from sr_deploy.errors import MissingDependencyError

TENSORRT = get_backend("tensorrt").package


def test_absent_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)  # what Python itself does for "not importable"
    with pytest.raises(
        MissingDependencyError,
        match=r"needs openvino, .*run: pip install 'sr-deploy\[openvino\]'",
    ):
        deps.require(get_backend("openvino").package, "the fast CPU backend")


def test_versions_come_from_the_metadata_without_an_import():
    import onnx

    assert deps.installed_version("onnx") == onnx.__version__
    assert deps.installed_version(TENSORRT) is None or not deps.installed_version(TENSORRT).startswith("0")


def write_package(folder: Path, name: str, text: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(text)


@pytest.mark.parametrize(
    "sources",
    [
        {"tensorrt": "raise OSError('no driver')\n__version__ = '10.13.3.9'\n"},
        {"tensorrt": "from tensorrt_bindings import __version__\n", "tensorrt_bindings": "__version__ = '10.13.3.9'\n"},
    ],
)
def test_a_version_that_no_known_distribution_names_is_read_from_the_source(sources, tmp_path, monkeypatch):
    """NVIDIA's containers, JetPack and wheels for another CUDA bring `tensorrt` by other names."""
    if deps.is_installed("tensorrt"):
        pytest.skip("TensorRT is installed")
    for name, text in sources.items():
        write_package(tmp_path, name, text)
    monkeypatch.syspath_prepend(tmp_path)
    assert deps.installed_version(TENSORRT) == "10.13.3.9"
    assert "tensorrt" not in sys.modules


@pytest.mark.parametrize("text", ["", "__version__ = 3\n", "def\n", "from tensorrt import __version__\n", "a\0b"])
def test_a_source_without_a_version_has_none(text, tmp_path, monkeypatch):
    if deps.is_installed("tensorrt"):
        pytest.skip("TensorRT is installed")
    write_package(tmp_path, "tensorrt", text)
    monkeypatch.syspath_prepend(tmp_path)
    assert deps.installed_version(TENSORRT) is None
