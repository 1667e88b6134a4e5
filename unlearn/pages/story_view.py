"""What was done before an audit, for the first part of its page: the request in a few lines, and its stations."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Story:
    """What was done.

    Attributes:
        rows: What is to be said of the request: a word or two, and the text.
        stations: Name, `made` or `kept` from an earlier run, seconds it took when it was made, and its folder.
    """

    rows: tuple[tuple[str, str], ...]
    stations: tuple[tuple[str, str, float, str], ...]

    @property
    def seconds(self) -> float:
        """Return what the stations that were made now took."""
        return float(sum(seconds for _, how, seconds, _ in self.stations if how == "made"))
