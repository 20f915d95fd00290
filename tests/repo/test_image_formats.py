"""What the docs say of image formats is what the table says."""

from pathlib import Path

import pytest

from sr_deploy.imaging.formats import BY_ROWS, FORMATS, WRITTEN, Format, join

DOCS = Path(__file__).parents[2] / "docs"
HEADER = "| format | suffixes | bits | gray | transparency | EXIF | row by row | longest side | loss |"
BITS = {8: "8: 16 bits are rounded, with a note", 12: "8; 16 bits become 12, with a note", 16: "8, 16"}


def describe(form: Format) -> str:
    """The line of the table in docs/upscaling.md."""
    cells = (
        form.name,
        ", ".join(form.suffixes),
        BITS[form.bits],
        "yes" if form.gray else "as RGB, with a note",
        "yes" if form.alpha else "no: refused",
        "yes" if form.exif else "no",
        "yes" if form.by_rows else "no",
        "any" if form.max_side is None else str(form.max_side),
        "none" if form.quality is None else f"quality {form.quality}",
    )
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_each_format_has_its_line_on_the_page_of_upscaling(form):
    page = (DOCS / "upscaling.md").read_text(encoding="utf-8")
    table = page.split(HEADER)[1].split("\n\n")[0].splitlines()[2:]
    if form.is_written:
        assert describe(form) in table
        assert len(table) == len(WRITTEN)
    else:
        assert form.name in page.split("\n\n*Only read*: ")[1].split("\n\n")[0]


def test_the_page_of_commands_names_the_formats():
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    section = page.split("## sr-deploy upscale\n", 1)[1].split("\n## ", 1)[0]
    assert join(form.suffixes[0] for form in WRITTEN) in section.replace("\n", " ")
    assert join(form.suffixes[0][1:] for form in WRITTEN) in section
    assert join((f"{form.name} ({form.quality})" for form in WRITTEN if form.quality), "and") in section
    assert f"for {join(form.name for form in BY_ROWS)} files" in section
