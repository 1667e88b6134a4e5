"""Refuse to continue a run with other inputs or settings than it was begun with, naming each that differs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_train.errors import ConfigError

MOST_CHARS = 80  # of a value in a message
MOST_KEYS = 6


def check_unchanged(
    what: str | Path,
    then: Mapping[str, Any],
    now: Mapping[str, Any],
    *,
    names: Mapping[str, str] | None = None,
    derived: Collection[str] = (),
) -> None:
    """Compare what decides a run's result with what it was when the run began.

    Args:
        what: The run, for the message.
        then: What was recorded, possibly nested; keys that `now` lacks do not count.
        now: What is given now.
        names: What to call keys in the message, where that is not their name.
        derived: Keys that follow from the others; named where nothing else differs.

    Raises:
        ConfigError: Something differs; every key is named with both values.

    Example:
        >>> check_unchanged("run", {"lr": 0.1, "k": 8}, {"lr": 0.2, "k": 8})
        Traceback (most recent call last):
            ...
        sae_train.errors.ConfigError: cannot continue 'run': lr has changed
          got:      lr 0.2
          expected: lr 0.1
          try:      the same inputs and options, or overwrite in the place of resume to start again
    """
    found = list(differences(then, now))
    if not found:
        return
    found = [each for each in found if each[0].split(".")[0] not in derived] or found
    shown, names = found[:MOST_KEYS], names or {}
    called = [names.get(key, key) for key, _, _ in shown]
    more = f" (and {len(found) - MOST_KEYS} more)" if len(found) > MOST_KEYS else ""
    raise ConfigError(
        f"cannot continue '{what}': {', '.join(called)}{more} {'has' if len(found) == 1 else 'have'} changed",
        got=", ".join(f"{name} {_shown(new, old)}" for name, (_, old, new) in zip(called, shown, strict=True)),
        expected=", ".join(f"{name} {_shown(old, new)}" for name, (_, old, new) in zip(called, shown, strict=True)),
        try_="the same inputs and options, or `overwrite` in the place of `resume` to start again",
    )


def differences(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (key, value then, value now) of all that differs, nested keys joined by dots.

    Example:
        >>> list(differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4}))
        [('a.c', 2, 3), ('d', None, 4)]
    """
    for key, new in now.items():
        old = then.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            missing = dict.fromkeys(old.keys() - new.keys())
            yield from differences(old, {**new, **missing}, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}", old, new


def _shown(value: Any, other: Any) -> str:
    """Return a value, of a long one the part in which it differs from the other."""
    if isinstance(value, Sequence) and isinstance(other, Sequence) and not isinstance(value, str):
        own = [item for item in value if item not in other]
        text = f"{len(value)} items, {', '.join(map(str, own)) or 'in this order'}" if len(value) > 3 else str(value)
        return text if len(text) <= MOST_CHARS else text[:MOST_CHARS] + "…"
    text, beside = str(value), str(other)
    if len(text) <= MOST_CHARS:
        return text
    same = next((i for i, (a, b) in enumerate(zip(text, beside, strict=False)) if a != b), len(beside))
    first = max(0, same - MOST_CHARS // 4)
    return f"{'…' * (first > 0)}{text[first : first + MOST_CHARS]}{'…' * (first + MOST_CHARS < len(text))}"
