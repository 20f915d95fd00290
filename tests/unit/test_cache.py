"""A user without a home: nothing is kept, and nothing fails."""

import os
import shutil
import subprocess
import sys

import pytest
from pydantic import BaseModel

from sr_deploy.cache import cache_folder, count_kept, keep, read_kept
from sr_deploy.errors import OutputError


class Answer(BaseModel):
    text: str


@pytest.fixture
def homeless(monkeypatch):
    for name in ("SR_DEPLOY_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def fail(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", fail)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other folders")
def test_the_folder_is_that_of_the_variables_or_in_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/users/ada")
    for name, folder in (
        ("", "/users/ada/.cache/sr-deploy"),
        ("XDG_CACHE_HOME", "/caches/sr-deploy"),
        ("SR_DEPLOY_CACHE", "/caches"),
    ):
        for variable in ("XDG_CACHE_HOME", "SR_DEPLOY_CACHE"):
            monkeypatch.setenv(variable, "/caches" if variable == name else "")
        assert str(cache_folder()) == folder


def test_without_a_home_nothing_is_kept_and_a_note_says_so(homeless):
    with pytest.raises(OutputError, match="no home folder to keep it in; set HOME, or SR_DEPLOY_CACHE"):
        cache_folder()
    assert keep("answer", "a", Answer(text="x")).startswith(
        "the answer is not kept for the next time: this user has no"
    )
    assert read_kept("answer", "a", Answer) == (None, "")
    assert count_kept("answer") == 0


@pytest.mark.slow
def test_a_user_that_the_system_does_not_know_can_do_everything(tmp_path, write_gentle_network):
    write_gentle_network(tmp_path / "net.safetensors", 8, 2)
    other = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]
    if not shutil.which("unshare") or subprocess.run([*other, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no other user can be taken on here: unshare --user does not work")
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "SR_DEPLOY_CACHE")}
    environment.pop("XDG_CACHE_HOME", None)
    for words in (
        ["doctor"],
        ["export", "net.safetensors"],
        ["upscale", "a.png", "b.png", "--model", "net.safetensors"],
        ["train", "--set", "run.steps=1", "--set", "network.blocks=1", "--set", "network.features=8"],
    ):
        script = (
            "import os, sys\nassert os.getuid() == 12345\n"
            "from sr_deploy.imaging.codec import bundled_photographs, read_image, write_image\n"
            "from pathlib import Path\n"
            "write_image(Path('a.png'), read_image(bundled_photographs()['chelsea'])[:40, :40].copy())\n"
            f"from sr_deploy.cli import main\nsys.exit(main({words}))"
        )
        done = subprocess.run(
            [*other, sys.executable, "-c", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert "internal" not in done.stderr
