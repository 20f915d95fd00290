import json
from importlib import metadata

import pytest

from sr_deploy.backends.registry import backend_names
from sr_deploy.cli import main
from sr_deploy.deps import is_installed
from sr_deploy.gpus import visible_gpus


@pytest.fixture(scope="module")
def document():
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(["doctor", "--json"])
    assert code == 0
    return json.loads(out.getvalue())


def test_every_backend_has_its_line(document):
    assert [one["name"] for one in document["backends"]] == list(backend_names())
    by_name = {one["name"]: one for one in document["backends"]}
    assert by_name["torch"]["version"] == metadata.version("torch")
    assert by_name["onnxruntime"]["runs"][0].startswith("cpu fp32")
    assert by_name["torch"]["builds"] is None
    for one in document["backends"]:
        assert bool(one["runs"]) != bool(one["why_not_run"])
        assert (one["builds"] is False) == bool(one["why_not_build"])


@pytest.mark.skipif(bool(visible_gpus()), reason="this machine has an NVIDIA GPU")
def test_what_is_missing_comes_with_what_mends_it(document):
    by_name = {one["name"]: one for one in document["backends"]}
    if is_installed("tensorrt_rtx"):
        assert by_name["tensorrt-rtx"]["builds"] is True
        assert "needs an NVIDIA GPU" in by_name["tensorrt-rtx"]["why_not_run"]
    if not is_installed("tensorrt"):
        assert "pip install 'sr-deploy[tensorrt]'" in by_name["tensorrt"]["why_not_run"]
        assert by_name["tensorrt"]["version"] is None


def test_machine_packages_and_disk(document):
    assert document["machine"]["cores"] >= 1
    assert document["free_disk_gib"] > 0
    packages = {one["name"]: one for one in document["packages"]}
    assert {"pyvips", "av", "skimage", "tensorboard", "onnx", "polygraphy"} <= set(packages)
    for one in packages.values():
        assert bool(one["version"]) != bool(one["install"])


def test_an_absent_package_is_named_with_its_command(monkeypatch, capsys):
    monkeypatch.setattr("sr_deploy.deps.is_installed", lambda name: name not in ("pyvips", "openvino"))
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    (row,) = [line for line in out.splitlines() if "│ pyvips" in line]
    assert "absent" in row
    assert "pip install 'pyvips[binary]'" in row  # brackets are text, not markup
    assert "openvino is not installed" in out
