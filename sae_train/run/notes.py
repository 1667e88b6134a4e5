"""Notes to the user about a run, from any floor, through Python's logging.

The command line writes them to stderr; in a notebook what needs attention appears under the cell; a program routes the
logger `sae_workbench` wherever it likes.
"""

from __future__ import annotations

import logging

LOGGER = "sae_workbench"


def note(text: str, *, is_news: bool = False) -> None:
    """Tell the user something in one sentence that is neither a result nor an error.

    Args:
        text: The sentence.
        is_news: It only says what a run is about to do: level INFO in the place of WARNING, which Python shows nobody
            who did not ask for it; the command line does.
    """
    logging.getLogger(LOGGER).log(logging.INFO if is_news else logging.WARNING, "%s", text)
