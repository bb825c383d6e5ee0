"""Configurations by dotted field, ``hyperparameters.gamma``, and back into groups."""

from collections.abc import Mapping
from typing import Any


def dotted(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Groups within groups as one level of names with dots."""
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            flat.update(dotted(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of `dotted`."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *groups, last = name.split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return nested


def plain(value: Any) -> Any:
    """Tuples as lists, as JSON and YAML give them back."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def laid_over(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``base`` with the values of ``over``, group by group."""
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name)
        both = isinstance(below, dict) and isinstance(value, Mapping)
        merged[name] = laid_over(below, value) if both and below is not None else plain(value)
    return merged


def difference(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of ``mine`` that ``theirs`` lacks or has otherwise, group by group."""
    found: dict[str, Any] = {}
    for name, value in mine.items():
        other = theirs.get(name)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            if below := difference(value, other):
                found[name] = below
        elif plain(value) != plain(other):
            found[name] = plain(value)
    return found
