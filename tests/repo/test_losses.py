"""A loss is named by its own module, by recipes and by docs, and by nothing else."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from sr_deploy.train.losses.registry import describe_key, get_loss, list_losses, loss_names

ROOT = Path(__file__).parents[2]
LOSSES = ROOT / "sr_deploy" / "train" / "losses"
PAGE = ROOT / "docs" / "losses.md"


def find_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Texts, attributes, keyword arguments and imported modules of a file, with their lines."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        match node:
            case ast.Constant(value=str(text)):
                yield line, text
            case ast.Attribute(attr=name) | ast.keyword(arg=str(name)):
                yield line, name
            case ast.ImportFrom(module=str(module)) if module.startswith("sr_deploy.train.losses"):
                yield from ((line, name) for name in (module.split(".")[-1], *(one.name for one in node.names)))


def list_words() -> set[str]:
    """The texts that an option of a loss takes, as the kinds of a loss."""
    fields = [field for _, loss in list_losses() for field in loss.options.model_fields.values()]
    return {word for field in fields if field.annotation is str for word in field.examples or ()}


def test_no_other_module_names_a_loss():
    found = []
    words = list_words()
    assert {"l1", "hinge"} < words
    for path in sorted((ROOT / "sr_deploy").rglob("*.py")):
        if path.parent == LOSSES and path.stem in loss_names():
            continue
        training = path.is_relative_to(LOSSES.parent)  # elsewhere the words mean other things
        for line, name in find_names(ast.parse(path.read_text(encoding="utf-8"))):
            if name in loss_names() or (training and name in words):
                found.append(f"{path.relative_to(ROOT)}:{line}: {name}")
    assert found == []


def test_the_page_has_every_loss_and_each_of_its_options():
    text = PAGE.read_text(encoding="utf-8")
    rows = {}
    for line in text.split("## All losses\n", 1)[1].split("\n## ", 1)[0].splitlines():
        cells = [cell.strip(" `") for cell in line.strip("|").split("|")]
        if len(cells) == 4 and not cells[0].startswith(("loss", "--")):
            rows[cells[0]] = tuple(cells[1:])
    assert list(rows) == [name for name, _ in list_losses()]
    for name, (title, section, needs) in rows.items():
        loss = get_loss(name)
        assert (title, section, needs) == (loss.title, describe_key(name, loss), ", ".join(sorted(loss.needs)))
        options = set(loss.options.model_fields) - {"weight"}
        assert [key for key in sorted(options) if not re.search(rf"`{key}`|{section}\.{key}\b", text)] == []
