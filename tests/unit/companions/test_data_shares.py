"""The script that shows which patches a training draws, on folders of the published proportions."""

import numpy as np
import pytest

from sr_deploy.imaging.codec import write_image

FEW = ["--draws", "4000"]


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("train/data_shares.py")


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """3 pictures of OST's kind to each of DF2K's, nearly as published: 10,324 to 3,450."""
    for number in range(2):
        write_image(tmp_path / "all" / "DF2K" / f"{number}.png", np.zeros((1356, 2040, 3), np.uint8))
    for number in range(6):
        write_image(tmp_path / "all" / "OST" / f"{number}.png", np.zeros((375, 500, 3), np.uint8))
    monkeypatch.chdir(tmp_path / "all")


def test_published_scales_and_area_leave_ost_a_twentieth(script, photographs, capsys):
    sources = 'data.source=[{folder="DF2K"}, {folder="OST", scaled=false}]'
    assert script.run(["realesrgan", "--set", sources, *FEW]) == 0
    rows, totals = read_table(capsys.readouterr().out)
    # Squares of 400, every 200: 60 of a photograph as it is, 35, 15, 6 and 3 at its scales; 2 of a picture of OST.
    assert totals == {"DF2K": pytest.approx(100 * 119 / 125, abs=1), "OST": pytest.approx(100 * 6 / 125, abs=1)}
    assert rows["DF2K", "1"] == ("2", pytest.approx(100 * 60 / 125, abs=2.5))
    assert rows["DF2K", "0.333"] == ("2", pytest.approx(100 * 6 / 125, abs=1.2))
    assert rows["DF2K", "short side 400"] == ("2", pytest.approx(100 * 3 / 125, abs=1))
    assert rows["OST", "1"] == ("6", pytest.approx(100 * 6 / 125, abs=1))


def test_pictures_alike_leave_ost_three_quarters(script, photographs, capsys):
    sources = 'data.source=[{folder="DF2K"}, {folder="OST"}]'
    assert script.run(["srresnet", "--set", sources, *FEW]) == 0
    rows, totals = read_table(capsys.readouterr().out)
    assert totals == {"DF2K": pytest.approx(25, abs=2.5), "OST": pytest.approx(75, abs=2.5)}
    assert [count for count, _ in rows.values()] == ["2", "6"]


def test_one_folder_takes_the_place_of_all(script, photographs, capsys):
    assert script.run(["realesrgan", "--data", ".", "--set", 'data.source=[{folder="nowhere"}]', *FEW]) == 0
    assert read_table(capsys.readouterr().out)[1] == {".": 100.0}
    assert script.run(["realesrgan", "--data", "nowhere"]) == 1
    assert "error: nowhere does not exist" in capsys.readouterr().err


def read_table(shown):
    cells = [line.split(" | ") for line in shown.splitlines()]
    rows = {(one[0], one[1]): (one[2], float(one[3])) for one in cells[2:] if len(one) == 4}
    totals = dict(one[0].split(": ") for one in cells if len(one) == 1 and one[0].endswith("in all"))
    return rows, {name: float(total.split(" ")[0]) for name, total in totals.items()}
