"""How objects of this floor show themselves in a notebook: compact HTML tables, without anything from outside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from sae_train.progress import value_text


def html_rows(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table with a caption and heads of columns, everything escaped.

    Example:
        >>> html_rows("a < b", ["n"], [(1234,)])
        '<table><caption>a &lt; b</caption><tr><th>n</th></tr><tr><td>1,234</td></tr></table>'
    """
    heads = "".join(f"<th>{escape(c)}</th>" for c in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(value_text(v))}</td>" for v in row) + "</tr>" for row in rows)
    return f"<table><caption>{escape(title)}</caption><tr>{heads}</tr>{body}</table>"
