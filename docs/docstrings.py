"""How the API reference reads the docstrings of this house: an extension of griffe, which reads them for mkdocstrings.

Griffe knows the sections of Google's style with one parameter a line and examples under `Examples:`. Here several
parameters that share a description stand in one line (`before, after: Models to compare.`), and the section with the
doctests is called `Example:`. Without this, such parameters would count as unknown, and doctests would be
read as Markdown.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

SECTION = re.compile(r"^(?:Args|Attributes):\n(?:(?: +\S.*)?\n?)+?(?=^\S|\Z)", flags=re.MULTILINE)
SHARED = re.compile(
    r"^(?P<indent> +)(?P<names>\w+(?:, \w+)+): (?P<text>.*(?:\n(?P=indent) +\S.*)*)", flags=re.MULTILINE
)


def in_google_style(docstring: str) -> str:
    r"""Return a docstring with one parameter a line, its doctests under `Examples:`.

    Example:
        >>> in_google_style("Add.\n\nArgs:\n    a, b: Numbers.\n\nExample:\n    >>> add(1, 1)")
        'Add.\n\nArgs:\n    a: Numbers.\n    b: Numbers.\n\nExamples:\n    >>> add(1, 1)'
    """
    plain = re.sub(r"^Example:$", "Examples:", docstring, flags=re.MULTILINE)
    return SECTION.sub(lambda section: SHARED.sub(_one_a_line, section.group()), plain)


def _one_a_line(shared: re.Match[str]) -> str:
    """Return the description once for each parameter."""
    return "\n".join(f"{shared['indent']}{name}: {shared['text']}" for name in shared["names"].split(", "))


class HouseStyle(Extension):
    """Rewrites each docstring as it is read."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = in_google_style(obj.docstring.value)
