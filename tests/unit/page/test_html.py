import re

from sr_deploy.page.html import bars, colour_of


def test_bars_and_colours_follow_the_figures():
    drawn = bars([("a", 2.0, "2"), ("b", -1.0, "-1"), ("c", 0.0, "0")], "title")
    widths = [float(width) for width in re.findall(r'<rect[^>]*width="([\d.]+)"', drawn)]
    assert widths == [260.0, 130.0, 0.0]
    assert drawn.count("var(--bad)") == 1
    assert colour_of(-1) == colour_of(0) == "#d64541"
    assert colour_of(1) == colour_of(7) == "#7ac484"
