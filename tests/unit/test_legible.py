import os

import pytest

from sr_deploy.legible import make_legible, shorten, show_value


@pytest.mark.parametrize(
    "text",
    [
        "plain.png",
        "[/] {x}z %s",
        "größer 写真 😀",
        "👩\u200d👩\u200d👧",
        "می\u200cخواهم",
        "a\u00a0b\u3000c",
        "C:\\pictures",
    ],
)
def test_text_that_people_write_stays(text):
    assert make_legible(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x1b]8;;http://x\x07link\x1b]8;;\x07", "\\x1b]8;;http://x\\x07link\\x1b]8;;\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("a\nb\r\tc\x00", "a\\nb\\r\\tc\\x00"),
        ("abc\u202egnp.exe", "abc\\u202egnp.exe"),
        ("\u2066\u2069\u200f\u200b\ufeff", "\\u2066\\u2069\\u200f\\u200b\\ufeff"),
        ("\u2028\u2029\u0085", "\\u2028\\u2029\\x85"),
        ("\U000e0041", "\\U000e0041"),
        ("\ud83d", "\\ud83d"),
        (os.fsdecode(b"caf\xe9.png"), "caf\\xe9.png"),
    ],
)
def test_what_acts_on_a_terminal_is_escaped(text, shown):
    assert make_legible(text) == shown
    assert make_legible(make_legible(text)) == shown


def test_a_long_text_keeps_its_ends():
    text = "begin" + 5_000_000 * "x" + "the end"
    shown = make_legible(text)
    assert len(shown) == 2000
    assert shown.startswith("begin")
    assert shown.endswith("the end")
    assert "(4998012 characters left out)" in shown
    assert len(make_legible(5000 * "\x1b")) == 2000
    assert shorten("x" * 2000) == "x" * 2000


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (7, "7"),
        ("a'b", '"a\'b"'),
        pytest.param(10**5000, "a number of 16610 bits", id="long"),
        pytest.param(-(10**5000), "a number of 16610 bits", id="negative"),
        ((1, 2), "(1, 2)"),
        ([0] * 500, "a list of 500"),
        ({"a": {}}, "a dict of 1"),
        ((10**5000,), "a tuple of 1"),
        (None, "None"),
    ],
)
def test_values_of_files_are_shown_within_bounds(value, shown):
    assert show_value(value) == shown


def test_a_long_text_and_a_list_in_itself_are_shown_within_bounds():
    assert len(show_value("x" * 5_000_000)) == 120
    itself: list[object] = []
    itself.append(itself)
    assert show_value(itself) == "a list of 1"
