"""Notes to the user about a result, from any floor, through Python's logging.

The command line writes them to stderr; in a notebook they appear under the cell; a program routes the logger
`sae_workbench` wherever it likes.
"""

from __future__ import annotations

import logging

LOGGER = "sae_workbench"


def note(text: str) -> None:
    """Tell the user something in one sentence that is neither a result nor an error."""
    logging.getLogger(LOGGER).warning("%s", text)
