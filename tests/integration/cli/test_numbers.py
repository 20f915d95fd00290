"""Absurd numbers on the command line (NaN, infinite, of thousands of digits): one short line, and nothing is run."""

from __future__ import annotations

import pytest

from sr_deploy.cli import main

DIGITS = "9" * 5000
ABSURD = ["nan", "inf", "-inf", "1e308", "1e400", "-1", str(10**26), DIGITS, "x", "", "0x10"]
UPSCALE = ["upscale", "in.png", "out.png"]
OPTIONS = {
    "--tile": UPSCALE,
    "--batch": UPSCALE,
    "--scale": UPSCALE,
    "--max-megapixels": UPSCALE,
    "--quality": UPSCALE,
    "--crf": ["upscale", "in.mkv", "out.mkv"],
    "--segment": ["upscale", "in.mkv", "out.mkv"],
    "--seed": ["degrade", "in.png"],
    "--count": ["degrade", "in.png"],
    "--alpha": ["interpolate", "a", "b"],
    "--seconds": ["bench", "net"],
    "--max-slowdown": ["bench", "--compare", "a", "b"],
    "--max-drop-db": ["export", "net"],
    "--optimization-level": ["build", "b"],
}


def assert_one_line(capsys: pytest.CaptureFixture[str], *words: str) -> None:
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, error
    assert len(lines[0]) <= 2010
    assert "internal" not in lines[0]
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize("value", ABSURD, ids=lambda value: value[:12] or "empty")
@pytest.mark.parametrize("option", OPTIONS)
def test_options_take_finite_numbers_in_a_range(capsys, tmp_path, monkeypatch, option, value):
    monkeypatch.chdir(tmp_path)
    assert main([*OPTIONS[option], option, value]) == 2
    assert_one_line(capsys, option)
    assert list(tmp_path.iterdir()) == []


SHAPES = ["nanx1x1", f"{DIGITS}x1x1", "0x1x1", "-1x1x1", "65537x1x1", "1x1", "", "٣x٣x٣", "1x1x1" + "x1" * 5000]


@pytest.mark.parametrize("text", SHAPES, ids=lambda text: text[:12] or "empty")
def test_shapes_and_profiles_are_bounded(capsys, tmp_path, monkeypatch, write_gentle_network, text):
    monkeypatch.chdir(tmp_path)
    net = str(write_gentle_network(tmp_path / "net.safetensors", 4, 1))
    assert main(["bench", net, f"--shape={text}", "--backend", "torch"]) == 1
    assert_one_line(capsys, "is not a shape; give NxHxW")
    assert main(["export", net, "--backend", "none", "--profile", f"a={text},{text},{text}"]) == 1
    assert_one_line(capsys, "is not a shape" if text.count("x") == 2 else "is not ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.safetensors"]


@pytest.mark.parametrize("name", ["", "=", DIGITS, "a b", "a" * 101])
def test_names_of_profiles_are_bounded(capsys, tmp_path, monkeypatch, write_gentle_network, name):
    monkeypatch.chdir(tmp_path)
    net = str(write_gentle_network(tmp_path / "net.safetensors", 4, 1))
    assert main(["export", net, "--backend", "none", "--profile", f"{name}=1x8x8,1x8x8,1x8x8"]) == 1
    assert_one_line(capsys, "is not a profile; give NAME=MIN,OPT,MAX")


@pytest.mark.parametrize("size", ["nanxnan", "0x0", f"{DIGITS}x1", "-1x5", "99999x99999", "1x1x1", "", "٣x٣"])
def test_sizes_of_frames_are_bounded(capsys, tmp_path, monkeypatch, write_gentle_network, size):
    from sr_deploy.errors import InputError
    from sr_deploy.upscale.video.raw import read_format

    with pytest.raises(InputError, match="give it with --size, as in 640x360") as caught:
        read_format(None, "rgb24", size)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0", "1025"])
def test_the_builder_s_workspace_is_bounded(value):
    from sr_deploy.bundle.engine_options import EngineOptions
    from sr_deploy.errors import InputError

    with pytest.raises(InputError, match="workspace_gib of the builder is "):
        EngineOptions().with_options(workspace_gib=float(value))
