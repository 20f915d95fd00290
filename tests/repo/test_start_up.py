"""What is imported before a command runs: modules are counted, seconds are not (machines differ)."""

import json
import subprocess
import sys

import pytest

HEAVY = {
    "torch",
    "numpy",
    "onnx",
    "onnxruntime",
    "openvino",
    "polygraphy",
    "pydantic",
    "pyvips",
    "av",
    "skimage",
    "rich",
}


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


def test_package_alone_imports_nothing_heavy():
    modules, _ = modules_after("import sr_deploy")
    assert modules & HEAVY == set()


def test_public_names_stay_functions_after_their_subpackages_were_imported():
    code = (
        "import sr_deploy.verify, sr_deploy.bench, sr_deploy.export, sr_deploy.deploy, sr_deploy\n"
        "for name in sr_deploy.__all__:\n"
        "    assert callable(getattr(sr_deploy, name)), name\n"
        "from sr_deploy import verify\n"
        "assert verify is sr_deploy.verify and verify.__name__ == 'verify_model'"
    )
    assert "sr_deploy" in modules_after(code)[0]
