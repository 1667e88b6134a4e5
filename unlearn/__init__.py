"""Second floor: make the model not know, and measure how deep the forgetting goes.

    from unlearn import unlearn, audit

    forgotten = unlearn(lm, latents, forget=["Jiros Fotrim Vafuk"], text="fact-world")
    report = audit(lm, forgotten, latents, forget=["Jiros Fotrim Vafuk"], text="fact-world")

Nothing heavy is imported before one of the names is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlearn.ledger import Ledger
    from unlearn.unlearned import Unlearned
    from unlearn.unlearning import unlearn

__all__ = ["Ledger", "Unlearned", "unlearn"]
_WHERE = {"Ledger": "unlearn.ledger", "Unlearned": "unlearn.unlearned", "unlearn": "unlearn.unlearning"}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
