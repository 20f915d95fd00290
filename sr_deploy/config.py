"""TOML files into validated models, and the files that are found by name (recipes, deployment specs)."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)

from sr_deploy.errors import RecipeError
from sr_deploy.files import require_file
from sr_deploy.legible import shorten, show_value
from sr_deploy.untrusted import MAX_TOML_BYTES, make_text, open_regular, parse_toml

ConfigModel = TypeVar("ConfigModel", bound=BaseModel)
Companion = Literal["train", "export"]
_PROBLEMS_SHOWN = 5
_MAX_SECTIONS = 8
_KEY_SHOWN = 120


class Document(BaseModel, frozen=True, extra="forbid"):
    """What is stored or printed as JSON: it does not change, and fields that are not known are refused.

    Names of files get into it, which may hold anything, and bytes that are no UTF-8: text is stored so that it can be
    read again.
    """

    @field_validator("*", mode="before")
    @classmethod
    def _make_storable(cls, value: object) -> object:
        return make_storable(value)


class OpenSection(BaseModel):
    """A section whose keys are known only when a file is read, as other packages bring some.

    Reading one gives an instance of `find_model()`, a subclass that has the keys as fields. A field that holds one is
    declared as `SerializeAsAny`.
    """

    @classmethod
    def find_model(cls) -> type[Self]:
        """The subclass that has all keys."""
        raise NotImplementedError

    @model_validator(mode="wrap")
    @classmethod
    def _read_keys(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:  # noqa: ANN401 - of any type
        model = cls.find_model()
        return handler(value) if isinstance(value, model) or cls is model else model.model_validate(value)


def first_problem(error: ValidationError, whole: str) -> str:
    """What is wrong with the first field that is refused, as in `run.steps: Input should be greater than 0`.

    Args:
        error: of a model.
        whole: stands for the field where it is the document as such that is refused.
    """
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or whole}: {first['msg'].removeprefix('Value error, ')}"


def make_storable(value: object) -> object:
    """Text, alone, in lists or as keys, so that it can be stored and read again; all else as it is."""
    if isinstance(value, str):
        return make_text(value)
    if isinstance(value, list | tuple):
        return type(value)(make_storable(one) for one in value)
    if isinstance(value, dict):
        return {make_storable(key): make_storable(one) for key, one in value.items()}
    return value


def companion_folder(kind: Companion) -> Path:
    """The folder of recipes (`train`) or deployment specs (`export`): in the wheel, or else in the checkout."""
    package = Path(__file__).parent
    installed = package / "_companions" / kind
    return installed if installed.is_dir() else package.parent / kind


def named_files(kind: Companion) -> dict[str, Path]:
    """Recipes or specs that can be given by name alone, sorted by name."""
    return {path.stem: path for path in sorted(companion_folder(kind).glob("*.toml"))}


def find_config(kind: Companion, name: str) -> Path:
    """The file that `name` means: a path to a TOML file, or the name of one that is shipped.

    Raises:
        RecipeError: no such name; the message lists those known.
        InputError: a path was given and there is no readable file.
    """
    if name.endswith(".toml") or "/" in name:
        return require_file(Path(name), "a TOML file")
    known = named_files(kind)
    if name in known:
        return known[name]
    noun = "recipe" if kind == "train" else "spec"
    raise RecipeError(
        f"no {noun} named {name!r}{_did_you_mean(name, known)}; known: {', '.join(known)}; "
        "or give the path of a .toml file"
    )


def load_config(path: Path, model: type[ConfigModel], overrides: Sequence[str] = ()) -> ConfigModel:
    """Read and validate a TOML file.

    Args:
        path: the file.
        model: what it must fit; unknown keys are errors if the model forbids extras.
        overrides: `section.key=value`, each value read as TOML (a bare word counts as text).

    Raises:
        RecipeError: not TOML, an unknown key (the nearest known one is named), a wrong type or value.
    """
    document = read_toml(path)
    for override in overrides:
        _apply_override(document, override)
    return validate_config(document, model, str(path))


def read_toml(path: Path) -> dict[str, object]:
    """The tables of a TOML file.

    Raises:
        RecipeError: not TOML.
    """
    try:
        with open_regular(path) as stream:
            return parse_toml(stream.read(MAX_TOML_BYTES + 1))
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from error


def format_toml_value(value: object) -> str:
    """A text, number, truth value or list as TOML has it.

    Raises:
        RecipeError: a text with a character that UTF-8 does not hold, as of a file name whose bytes are no UTF-8.
    """
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= one <= "\udfff" for one in value):
            raise RecipeError(
                f"{value} has bytes that are no UTF-8, and TOML files hold nothing else; rename it, or give a link to "
                "it, as from: ln -s"
            )
        # JSON's escapes are TOML's too, but TOML has no surrogate pairs and wants DEL escaped as well.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(format_toml_value(item) for item in value)}]"
    raise TypeError(f"no TOML form for {type(value).__name__}")


def validate_config(document: dict[str, object], model: type[ConfigModel], source: str) -> ConfigModel:
    """Validate a parsed document; `source` names it in errors.

    Raises:
        RecipeError: as `load_config`.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        problems = [_describe(problem, model) for problem in error.errors(include_url=False)]
        more = f"; and {len(problems) - _PROBLEMS_SHOWN} more" if len(problems) > _PROBLEMS_SHOWN else ""
        raise RecipeError(f"{source}: {'; '.join(problems[:_PROBLEMS_SHOWN])}{more}") from error


def _apply_override(document: dict[str, object], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set takes section.key=value, not {show_value(override)}")
    try:
        value = parse_toml(f"value = {text}")["value"]
    except ValueError:
        value = text.strip()
    *sections, last = key.strip().split(".")
    if len(sections) > _MAX_SECTIONS:
        raise RecipeError(f"--set {show_value(override)}: a key has at most {_MAX_SECTIONS} sections")
    table: dict[str, object] = document
    for section in sections:
        inner = table.setdefault(section, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {show_value(override)}: {show_value(section)} is a value, not a section")
        table = inner
    table[last] = value


def _describe(problem: object, model: type[BaseModel]) -> str:
    assert isinstance(problem, dict)
    location = [str(part) for part in problem["loc"]]
    key = shorten(".".join(location), _KEY_SHOWN)
    if problem["type"] == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        return f"unknown key {key!r}{_did_you_mean(location[-1], known)}; known there: {', '.join(known)}"
    if problem["type"] == "missing":
        return f"{key!r} is missing"
    message = shorten(str(problem["msg"]).removeprefix("Value error, "), 500)
    seen = problem.get("input")
    shown = "" if isinstance(seen, dict) else f" (it is {show_value(seen)})"
    return f"{key!r}: {message}{shown}" if key else message


def _known_keys(model: type[BaseModel], sections: Sequence[str]) -> list[str]:
    for section in sections:
        if section.isdigit():  # of several tables of one name
            continue
        field = model.model_fields.get(section)
        annotation = field.annotation if field else None
        # A section that may be left out is written as `Section | None`.
        inner = [one for one in (annotation, *get_args(annotation)) if isinstance(one, type)]
        models = [one for one in inner if issubclass(one, BaseModel)]
        if not models:
            return []
        model = models[0].find_model() if issubclass(models[0], OpenSection) else models[0]
    return list(model.model_fields)


def _did_you_mean(word: str, known: Sequence[str] | dict[str, Path]) -> str:
    near = difflib.get_close_matches(word[:_KEY_SHOWN], list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""
