"""How objects show themselves in a notebook: one compact HTML table, without anything from outside."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from sae_train.progress import value_text


def html_table(title: str, rows: Mapping[str, object]) -> str:
    """Return a table of names and values, escaped.

    Example:
        >>> html_table("SAE <a>", {"d_sae": 1536})
        '<table><caption>SAE &lt;a&gt;</caption><tr><th>d_sae</th><td>1,536</td></tr></table>'
    """
    cells = "".join(f"<tr><th>{escape(k)}</th><td>{escape(value_text(v))}</td></tr>" for k, v in rows.items())
    return f"<table><caption>{escape(title)}</caption>{cells}</table>"
