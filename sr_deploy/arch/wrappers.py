"""Where in a file of weights the generator is: trainers wrap it, and save other networks and its average beside it.

Every dotted beginning of the keys is tried as the place of a network; nested dictionaries are flattened to such keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sr_deploy.arch.pickles import Opaque
from sr_deploy.arch.stored import MAX_TENSORS, StoredTensor
from sr_deploy.errors import CheckpointError

if TYPE_CHECKING:
    from sr_deploy.arch.keys import Shapes

MAX_NESTING = 8
"""Most dictionaries inside each other that are looked into."""
_MOST_WORDS = 5
_LEAST_TENSORS = 2
_MOST_PREFIXES = 200
_MOST_CANDIDATES = 8
"""Places that are compared with a network tensor by tensor, which takes time; files with more are no training's."""
_AVERAGED = frozenset({"ema", "swa", "avg", "averaged", "average", "shadow"})
_COUNTER = "n_averaged"
"""What `torch.optim.swa_utils.AveragedModel` puts beside the network, which it calls `module`."""
_GENERATORS = (
    "generator", "netG", "net_g", "network_g", "gen", "G", "model", "net", "network", "student", "params",
    "state_dict", "model_state_dict", "module", "_orig_mod", "online_model",
)  # fmt: skip
"""Words that trainers call a generator by, likeliest first, and those that wrap any network."""


@dataclass(frozen=True)
class FoundNetwork:
    """The tensors of a generator."""

    tensors: dict[str, StoredTensor]
    """By their keys within it."""
    note: str | None
    """A line for people where the file holds others that might have been meant."""


def flatten(document: object) -> dict[str, StoredTensor | Opaque]:
    """All tensors of nested dictionaries, by their keys joined with dots, and what stands in place of a tensor.

    Raises:
        CheckpointError: far more of them than any training saves.
    """
    found: dict[str, StoredTensor | Opaque] = {}
    pending: list[tuple[str, object, int]] = [("", document, 0)]
    while pending:
        key, value, depth = pending.pop()
        if isinstance(value, StoredTensor | Opaque):
            found.setdefault(key, value)
        elif isinstance(value, dict) and depth < MAX_NESTING:
            inner = ((f"{key}.{name}" if key else name, one) for name, one in value.items() if isinstance(name, str))
            pending += [(name, one, depth + 1) for name, one in reversed(list(inner))]
        if len(found) > 4 * MAX_TENSORS:
            raise CheckpointError(f"refused: it holds more than {4 * MAX_TENSORS} tensors")
    return found


def find_generator(
    flat: Mapping[str, StoredTensor | Opaque], fits: Callable[[Shapes, bool], bool]
) -> FoundNetwork | None:
    """The generator that a file means, averaged weights before raw ones.

    Args:
        flat: what `flatten` gives, or the tensors of a safetensors file.
        fits: whether tensors of these shapes are a generator; True with them: to the last tensor.

    Returns:
        None where no tensors are those of a generator.

    Raises:
        CheckpointError: there are several and no name tells which is meant, or one of its tensors is none.
    """
    prefixes = _list_prefixes(flat)
    averaged = [one for one in prefixes if _is_averaged(one, flat)]
    raw = [one for one in prefixes if one not in averaged]
    best_averaged = next(_find_fitting(flat, averaged, fits), None)
    best_raw = next(_find_fitting(flat, filter(_is_known, raw), fits), None)
    if best_averaged is not None:
        note = None if best_raw is None else (
            f"the file holds raw weights ({_name(best_raw)}) and averaged ones ({_name(best_averaged)}); the averaged "
            "ones are taken"
        )  # fmt: skip
        return FoundNetwork(_take(flat, best_averaged), note)
    if best_raw is not None:
        others = [] if not best_raw else list(_find_fitting(flat, _list_others(raw, best_raw), fits))
        note = None if not others else (
            f"the file holds several generators; {_name(best_raw)} is taken, {', '.join(map(_name, others))} is not"
        )  # fmt: skip
        return FoundNetwork(_take(flat, best_raw), note)
    unknown = list(_find_fitting(flat, raw, fits))
    outermost = [one for one in unknown if not any(one != other and one.startswith(other) for other in unknown)]
    if len(outermost) > 1:
        raise CheckpointError(
            f"it holds several generators ({', '.join(map(_name, outermost))}), and nothing says which is meant; save "
            "the state_dict() of one"
        )
    return FoundNetwork(_take(flat, outermost[0]), None) if outermost else None


def _list_prefixes(flat: Mapping[str, object]) -> list[str]:
    """Beginnings of keys that may be wrappers: the whole first, then short ones and likely names before others."""
    counts: dict[str, int] = {"": len(flat)}
    for key in flat:
        end = -1
        for _ in range(_MOST_WORDS):
            end = key.find(".", end + 1)
            if end < 0 or key[key.rfind(".", 0, end) + 1 : end].isdecimal():
                break
            counts[key[: end + 1]] = counts.get(key[: end + 1], 0) + 1
    prefixes = [prefix for prefix, count in counts.items() if count >= _LEAST_TENSORS]
    return sorted(prefixes, key=lambda prefix: (prefix.count("."), _rank(prefix)))[:_MOST_PREFIXES]


def _rank(prefix: str) -> int:
    words = [word for word in prefix.split(".") if word in _GENERATORS]
    return min((_GENERATORS.index(word) for word in words), default=len(_GENERATORS))


def _is_known(prefix: str) -> bool:
    return all(word in _GENERATORS for word in prefix.split(".")[:-1])


def _list_others(raw: list[str], taken: str) -> Iterator[str]:
    return (one for one in raw if one and not one.startswith(taken) and not taken.startswith(one))


def _is_averaged(prefix: str, flat: Mapping[str, object]) -> bool:
    words = prefix.split(".")[:-1]
    if any(_AVERAGED.intersection(re.split(r"[_-]", word.lower())) or word.lower().endswith("ema") for word in words):
        return True
    return bool(words) and words[-1] == "module" and f"{prefix.removesuffix('module.')}{_COUNTER}" in flat


def _find_fitting(
    flat: Mapping[str, StoredTensor | Opaque], prefixes: Iterable[str], fits: Callable[[Shapes, bool], bool]
) -> Iterator[str]:
    """Places of generators: by the keys they are known by where a word says so, elsewhere to the last tensor."""
    tried = 0
    for prefix in prefixes:
        shapes = {
            key.removeprefix(prefix): one.shape
            for key, one in flat.items()
            if key.startswith(prefix) and isinstance(one, StoredTensor)
        }
        if not fits(shapes, False):
            continue
        tried += 1
        if _is_known(prefix) or (tried <= _MOST_CANDIDATES and fits(shapes, True)):
            yield prefix


def _take(flat: Mapping[str, StoredTensor | Opaque], prefix: str) -> dict[str, StoredTensor]:
    taken = {}
    for key, one in flat.items():
        if key.startswith(prefix) and isinstance(one, StoredTensor):
            taken[key.removeprefix(prefix)] = one
        elif key.startswith(prefix) and isinstance(one, Opaque) and "tensor" in one.what:
            raise CheckpointError(f"tensor {key.removeprefix(prefix)!r} is {one.what}; plain real numbers are needed")
    return taken


def _name(prefix: str) -> str:
    return prefix.rstrip(".") or "at the top"
