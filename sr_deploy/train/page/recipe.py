"""The recipe as it was run, what is another value than the shipped one, and what a resumption changed."""

from __future__ import annotations

import json

from sr_deploy.page.html import escape, table
from sr_deploy.train.page.content import RunContent


def show_history(content: RunContent) -> str:
    """The section of what changed when the run went on."""
    changes = content.manifest.history if content.manifest is not None else ()
    if not changes:
        return ""
    rows = [[str(one.step), _show_key(one.key), _show_value(one.old), _show_value(one.new)] for one in changes]
    return f"<h2>Changed when it went on</h2>{table(['from step', 'what', 'before', 'after'], rows, numbers=(0,))}"


def show_recipe(content: RunContent) -> str:
    """The section of the recipe: what differs from the shipped one, then every value."""
    values, shipped = content.values, content.shipped
    if not values:
        return ""
    # Of a section that is here and was left out there, only the values are told.
    keys = [*values, *(key for key, value in (shipped or {}).items() if key not in values and value is not None)]
    changed = [key for key in keys if shipped is not None and values.get(key) != shipped.get(key)]
    if shipped is None:
        said = f"No recipe named {escape(values.get('name'))} is shipped, so there is nothing to compare it with."
    else:
        said = f"{len(changed)} of {len(keys)} values differ from those of the shipped recipe {escape(values['name'])}."
    marked = [
        [
            _show_key(key),
            f"<mark>{_show_value(values.get(key))}</mark>",
            f'<span class="soft">shipped:</span> {_show_value((shipped or {}).get(key))}',
        ]
        for key in changed
    ]
    every = [
        [
            _show_key(key),
            f"<mark>{_show_value(values.get(key))}</mark> (changed)"
            if key in changed
            else _show_value(values.get(key)),
        ]
        for key in keys
    ]
    return (
        f"<h2>The recipe as it was run</h2><p>{said}</p>"
        + (table(["changed", "here", ""], marked, stacks=True) if marked else "")
        + f"<details><summary>all {len(every)} values</summary>{table(['key', 'value'], every, stacks=True)}</details>"
    )


def _show_key(key: str) -> str:
    return f"<code>{escape(key)}</code>"


def _show_value(value: object) -> str:
    return escape("left out" if value is None else json.dumps(value, ensure_ascii=False, default=str))
