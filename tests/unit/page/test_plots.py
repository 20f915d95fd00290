import math
import re
from xml.etree import ElementTree

import pytest

from sr_deploy.page import plots
from sr_deploy.page.plots import Point, Series, draw_lines, find_ticks, write_svg


def test_points_lie_where_the_logarithm_puts_them():
    points = [Point(x, y, 0, f"at {x}") for x, y in ((1, 10), (10, 100), (100, 1000))]
    drawn = draw_lines("a & b", [Series("line", points)], "x", "y <ms>")
    places = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawn)]
    (left, bottom), (middle, half), (right, top) = places
    assert middle - left == pytest.approx(right - middle, abs=0.2)  # equal factors, equal distances
    assert bottom - half == pytest.approx(half - top, abs=0.2)
    room = math.log(100 * 1.25**2)  # 1.25 on both sides
    assert right - left == pytest.approx(plots._WIDTH * math.log(100) / room, abs=0.2)
    assert 'aria-label="a &amp; b"' in drawn
    assert "y &lt;ms&gt;" in drawn
    assert re.findall(r"<title>([^<]*)", drawn) == ["at 1", "at 10", "at 100"]


def test_spreads_are_drawn_inside_the_axes():
    drawn = draw_lines("t", [Series("s", [Point(1, 10, 5, ""), Point(2, 10, 12, "")])], "x", "y")
    (_, first_top), (second_bottom, second_top) = (
        (float(low), float(high)) for low, high in re.findall(r'd="M[\d.]+ ([\d.]+)V([\d.]+)" stroke="#', drawn)
    )
    # The axis reaches from 5 / 1.25 to 22 * 1.25.
    reach = math.log(22 * 1.25**2 / 5)
    assert second_top == pytest.approx(plots._TOP + plots._HEIGHT * math.log(1.25) / reach, abs=0.1)
    assert first_top == pytest.approx(
        plots._TOP + plots._HEIGHT - plots._HEIGHT * math.log(15 * 1.25 / 5) / reach, abs=0.1
    )
    assert second_bottom == plots._TOP + plots._HEIGHT  # -2 has no place on a logarithmic axis


def test_ticks_are_one_two_and_five():
    assert find_ticks(0.9, 60) == pytest.approx([1, 2, 5, 10, 20, 50])
    assert find_ticks(0.04, 0.3) == pytest.approx([0.05, 0.1, 0.2])


def test_more_series_than_colors_are_told_apart_by_dashes():
    drawn = draw_lines("t", [Series(str(n), [Point(1, 1 + n, 0, "")]) for n in range(11)], "x", "y")
    strokes = re.findall(r'fill="none" stroke="(#\w+)" stroke-width="2" stroke-dasharray="([^"]*)"', drawn)
    assert len(set(strokes)) == 11
    assert strokes[0][0] == strokes[10][0]


def test_linear_axes_have_round_ticks_and_equal_steps():
    points = [Point(x, y) for x, y in ((0, -1), (50, 0), (100, 1))]
    drawn = draw_lines("t", [Series("s", points)], "x", "y", log_x=False, log_y=False)
    places = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawn)]
    (left, bottom), (middle, half), (right, top) = places
    assert middle - left == pytest.approx(right - middle, abs=0.2)
    assert bottom - half == pytest.approx(half - top, abs=0.2)
    assert right - left == pytest.approx(plots._WIDTH / 1.1, abs=0.2)  # a twentieth is left on both sides
    ticks = re.findall(r'text-anchor="(middle|end)">(-?[\d.]+)<', drawn)
    assert [tick for anchor, tick in ticks if anchor == "middle"] == ["0", "20", "40", "60", "80", "100"]
    assert [float(tick) for anchor, tick in ticks if anchor == "end"] == [-1, -0.5, 0, 0.5, 1]


def test_a_file_of_its_own_is_whole_and_knows_its_colors(tmp_path):
    plot = draw_lines("t", [Series("a <b>", [Point(1, 1)]), Series("", [Point(1, 2)], 0, dashed=True)], "x", "y")
    write_svg(tmp_path / "a.svg", "two & two", [plot, plot])
    text = (tmp_path / "a.svg").read_text()
    root = ElementTree.fromstring(text)
    assert "var(" not in text
    height = plots._TOP + plots._HEIGHT + plots._BOTTOM
    assert int(root.attrib["height"]) == plots._TITLE + 2 * height
    assert [int(one.attrib["y"]) for one in root if one.tag.endswith("}svg")] == [plots._TITLE, plots._TITLE + height]
    assert text.count("two &amp; two") == 1
    assert text.count("a &lt;b&gt;") == 2
    assert text.count("<circle") == 2  # a dashed line has no markers
