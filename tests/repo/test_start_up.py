"""What commands import: modules are counted, seconds are not (machines differ)."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sr_deploy
from sr_deploy.gpus import visible_gpus
from sr_deploy.imaging.codec import write_image
from sr_deploy.shipped import DEFAULT_MODEL

HEAVY = {
    *("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "openvino_telemetry", "polygraphy", "ray"),
    *("numpy", "scipy", "skimage", "pyvips", "av", "pydantic", "rich", "tensorboard"),
}
UPSCALING = {"numpy", "onnx", "pydantic", "pyvips", "rich"}
MODEL = str(DEFAULT_MODEL)


def modules_after(code):
    probe = (
        f"{code}\nimport json, sys\nprint('\\n' + json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1])), done.stdout


def test_help_imports_nothing_heavy():
    modules, text = modules_after("from sr_deploy.cli import main\nassert main(['--help']) == 0")
    assert "sr_deploy" in modules
    assert modules & HEAVY == set()
    assert "bench" in text


@pytest.mark.parametrize("command", ["train", "export", "build", "verify", "bench", "upscale", "info", "doctor"])
def test_help_of_a_command_imports_no_torch(command):
    modules, text = modules_after(f"from sr_deploy.cli import main\nassert main([{command!r}, '--help']) == 0")
    assert "torch" not in modules
    assert "--json" in text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A little picture, and a larger one to compare with."""
    path = tmp_path_factory.mktemp("start-up")
    random = np.random.default_rng(0)
    for name, side in (("in.png", 16), ("originals/hr.png", 48)):
        write_image(path / name, random.integers(0, 256, (side, side, 3), np.uint8))
    return path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["info", MODEL], {"numpy", "onnx", "pydantic", "rich"}),
        (["upscale", "in.png", "out.png", "--model", MODEL, "--backend", "onnxruntime"], UPSCALING | {"onnxruntime"}),
        (["upscale", "in.png", "out.png", "--model", MODEL, "--backend", "openvino"], UPSCALING | {"openvino"}),
        (
            ["evaluate", MODEL, "--hr", "originals", "--no-niqe", "--backend", "onnxruntime"],
            UPSCALING | {"onnxruntime", "scipy"},
        ),
    ],
)
def test_a_command_imports_what_it_needs_and_no_more(folder, words, expected):
    modules, _ = modules_after(run_in(folder, words))
    assert modules & HEAVY == expected


@pytest.mark.skipif(bool(visible_gpus()), reason="this machine has an NVIDIA GPU, which auto takes unasked")
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_remembered_choice_imports_no_other_backend(folder, tmp_path, monkeypatch, backend):
    monkeypatch.setenv("SR_DEPLOY_CACHE", str(tmp_path))
    end = (
        "from sr_deploy.backends import BackendChoice\n"
        "from sr_deploy.runners import autotune\n"
        f"result = autotune.AutotuneResult(BackendChoice({backend!r}), autotune.Shape(1, 8, 8), {{}}, {{}})\n"
        "autotune.autotune = lambda *_args, **_options: result\n"
    )
    upscale = run_in(folder, ["upscale", "in.png", "out.png", "--model", MODEL])
    modules_after(end + upscale)
    modules, _ = modules_after(upscale)
    assert modules & HEAVY == UPSCALING | {backend}


def run_in(folder, words):
    return f"import os\nos.chdir({str(folder)!r})\nfrom sr_deploy.cli import main\nassert main({words!r}) == 0"


def test_package_alone_imports_nothing_heavy():
    modules, _ = modules_after("import sr_deploy")
    assert modules & HEAVY == set()


def test_public_names_are_listed_before_they_are_imported_and_hide_no_subpackage():
    code = (
        "import sr_deploy\n"
        "assert set(sr_deploy.__all__) | {'__version__'} <= set(dir(sr_deploy))\n"
        "import sr_deploy.export.spec as spec, sr_deploy.verification.comparison, sr_deploy.bench.run\n"
        "for name in sr_deploy.__all__:\n"
        "    assert getattr(sr_deploy, name).__name__ == name, name\n"
        "assert sr_deploy.export.spec is spec and sr_deploy.__version__[0].isdigit()\n"
    )
    assert "torch" in modules_after(code)[0]


def test_a_name_that_is_not_public_is_refused():
    with pytest.raises(AttributeError, match="no attribute 'exprot'"):
        sr_deploy.exprot  # noqa: B018
