"""Modules that are found by name when asked for: those of a package of ours, and those that other packages bring."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Mapping
from functools import cache
from importlib.metadata import entry_points


@cache
def find_modules(package: str, group: str, *, exclude: Collection[str] = (), separator: str = "_") -> Mapping[str, str]:
    """The module of each name; nobody else's replaces one of ours.

    Args:
        package: whose modules each are one of ours, as in `sr_deploy.arch.networks`.
        group: of the entry points by which other packages bring theirs.
        exclude: modules of `package` that are none.
        separator: what our names have where a module's name has an underscore.
    """
    others = {point.name: point.value for point in entry_points(group=group)}
    found = pkgutil.iter_modules(importlib.import_module(package).__path__)
    ours = (one.name for one in found if one.name not in exclude)
    return others | {name.replace("_", separator): f"{package}.{name}" for name in ours}
