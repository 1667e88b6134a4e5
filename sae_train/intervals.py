"""A figure with its 95 % interval, and its keys in JSON, tables and attributes.

    {"fvu": Interval(0.25, 0.2, 0.3)}  <->  {"fvu": 0.25, "fvu_low": 0.2, "fvu_high": 0.3}

How an interval is found is said where its data are: over documents in `sae_train.quality.bootstrap`, over entities in
`features.stats.intervals` and `features.stats.probe`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any


@dataclass(frozen=True)
class Interval:
    """A figure with the ends of its 95 % interval; ends that nothing is known of are NaN, as is a figure without data.

    Attributes:
        value: The figure.
        low, high: Ends of its interval, in the figure's unit.
    """

    value: float
    low: float
    high: float


NO_INTERVAL = Interval(float("nan"), float("nan"), float("nan"))


def flat(figures: Any, *, figure: str = "") -> dict[str, Any]:
    """Return figures by name with each interval as three keys: `NAME`, `NAME_low`, `NAME_high`.

    Args:
        figures: A mapping or a dataclass; what is no interval stays as it is, dataclasses inside become dicts.
        figure: What the name is an interval of, where the first key says so: `auroc` gives `NAME_auroc`, `NAME_low` …

    Example:
        >>> flat({"kl": Interval(0.5, 0.4, 0.6), "n": 7})
        {'kl': 0.5, 'kl_low': 0.4, 'kl_high': 0.6, 'n': 7}
        >>> flat({"probe": Interval(0.9, 0.8, 1.0)}, figure="auroc")
        {'probe_auroc': 0.9, 'probe_low': 0.8, 'probe_high': 1.0}
    """
    found: dict[str, Any] = {}
    for name, value in (figures if isinstance(figures, Mapping) else vars(figures)).items():
        if isinstance(value, Interval):
            found |= zip(_keys(name, figure), (value.value, value.low, value.high), strict=True)
        else:
            found[name] = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    return found


def read_interval(figures: Mapping[str, Any], name: str, *, figure: str = "") -> Interval:
    """Return one figure of what `flat` returned; None (NaN in JSON) is NaN, as are ends that are not there.

    Example:
        >>> read_interval({"kl": 0.5, "kl_low": 0.4, "kl_high": 0.6}, "kl")
        Interval(value=0.5, low=0.4, high=0.6)
    """
    key, low, high = _keys(name, figure)
    return Interval(
        *(float("nan") if v is None else float(v) for v in (figures[key], figures.get(low), figures.get(high)))
    )


def _keys(name: str, figure: str) -> tuple[str, str, str]:
    """Return the keys of the figure and of its ends."""
    return f"{name}_{figure}" if figure else name, f"{name}_low", f"{name}_high"
