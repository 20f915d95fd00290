import re

from sr_deploy.page.html import bars, color_of, escape


def test_bars_and_colors_follow_the_figures():
    drawn = bars([("a", 2.0, "2"), ("b", -1.0, "-1"), ("c", 0.0, "0")], "title")
    widths = [float(width) for width in re.findall(r'<rect[^>]*width="([\d.]+)"', drawn)]
    assert widths == [260.0, 130.0, 0.0]
    assert drawn.count("var(--bad)") == 1
    assert color_of(-1) == color_of(0) == "#d64541"
    assert color_of(1) == color_of(7) == "#7ac484"


def test_text_of_files_is_neither_markup_nor_a_turn_of_the_reading():
    assert escape("<b>\"'&\u202e\x1b[2J\udce9") == "&lt;b&gt;&quot;&#x27;&amp;\\u202e\\x1b[2J\\xe9"
    assert escape("one\ntwo") == "one\ntwo"
