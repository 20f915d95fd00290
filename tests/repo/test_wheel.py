"""What users install: the wheel holds the package, its types, its license, and the recipes and specs as data."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out], cwd=ROOT, check=True)
    (path,) = out.glob("*.whl")
    return path


def test_contents(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2
    assert {top for top in tops if not top.endswith(".dist-info")} == {"sr_deploy"}
    assert "sr_deploy/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    shipped = {name for name in names if "_companions" in name and name.endswith(".toml")}
    in_checkout = {
        f"sr_deploy/_companions/{kind}/{path.name}"
        for kind in ("train", "export")
        for path in (ROOT / kind).glob("*.toml")
    }
    assert shipped == in_checkout
    assert "sr_deploy/_companions/train/demo.toml" in shipped
    assert {"sr_deploy/measure/data/niqe_pris_params.npz", "sr_deploy/measure/data/NOTICE"} <= set(names)
    assert {"sr_deploy/page/style.css", "sr_deploy/page/slider.js", "sr_deploy/train/page/film.js"} <= set(names)
    assert "sr_deploy/_companions/train/prepare_data.py" in names  # data, as the recipes: nothing imports it
    bundle = {f"model.{precision}.onnx" for precision in ("fp32", "fp16", "int8")} | {"PHOTOGRAPHS.md"}
    bundle |= {"bundle.json", "certificate.json", "generator.safetensors", "int8.json", "int8-search.png"}
    # Nothing else, such as an engine that was built there.
    assert {name for name in names if "_models/" in name} == {f"sr_deploy/_models/small-x2/{name}" for name in bundle}
    packed = {name for name in names if name.endswith(".py") and "_companions" not in name}
    assert packed == {path.relative_to(ROOT).as_posix() for path in (ROOT / "sr_deploy").rglob("*.py")}


def test_recipes_specs_and_models_are_found_by_name_where_there_is_no_checkout(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import sr_deploy.config as c; print(c.__file__); print(c.find_config('train', 'demo')); "
        "print(c.find_config('export', 'default')); "
        "import sr_deploy; print(sr_deploy.open_model('small-x2').path)"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == [
        str(tmp_path / "site/sr_deploy/config.py"),
        str(tmp_path / "site/sr_deploy/_companions/train/demo.toml"),
        str(tmp_path / "site/sr_deploy/_companions/export/default.toml"),
        str(tmp_path / "site/sr_deploy/_models/small-x2"),
    ]
