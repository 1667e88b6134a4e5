"""Notebook display of objects: one compact, self-contained HTML table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from sae_train.run.progress import value_text


def html_table(title: str, rows: Mapping[str, object]) -> str:
    """Return a table of names and values, escaped.

    Example:
        >>> html_table("SAE <a>", {"d_sae": 1536})
        '<table><caption>SAE &lt;a&gt;</caption><tr><th>d_sae</th><td>1,536</td></tr></table>'
    """
    cells = "".join(f"<tr><th>{escape(k)}</th><td>{escape(value_text(v))}</td></tr>" for k, v in rows.items())
    return f"<table><caption>{escape(title)}</caption>{cells}</table>"


def html_rows(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table with a caption and heads of columns, everything escaped.

    Example:
        >>> html_rows("a < b", ["n"], [(1234,)])
        '<table><caption>a &lt; b</caption><tr><th>n</th></tr><tr><td>1,234</td></tr></table>'
    """
    heads = "".join(f"<th>{escape(c)}</th>" for c in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(value_text(v))}</td>" for v in row) + "</tr>" for row in rows)
    return f"<table><caption>{escape(title)}</caption><tr>{heads}</tr>{body}</table>"
