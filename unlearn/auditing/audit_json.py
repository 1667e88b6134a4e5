"""`audit.json`: read and write audits as JSON. Only version 2 is accepted.

The layout follows from the dataclasses, field by field in their order: a `Figure` called x is written as `x_before`,
`x_before_low`, `x_before_high`, `x_after`, `x_after_low`, `x_after_high`; an `Interval` called x as `x`, `x_low`,
`x_high`; None and empty parts are left out; NaN is null. Reading is the same the other way round: a number that is null
or missing (an earlier program of the same version did not know it) is NaN, keys that are not known are left aside.

Written by hand here are the four parts that are laid out otherwise: attacks, answer shares, request and policy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from features.stats.probe import Interval
from sae_train.errors import FileFormatError, SchemaError
from sae_train.run.runs import jsonable, require_file, write_json
from sae_train.text_files import read_json
from unlearn.auditing.attack_results import AttackResult, AttackSetting, Relearning
from unlearn.auditing.audit_figures import AnswerShares, Figure, TaskResult
from unlearn.auditing.audit_report import AuditedRequest, AuditReport, ComparedModel, Findings, PolicyRecord

SCHEMA = "sae-workbench/audit"
VERSION = 2
HEADER = ("created", "request", "verdict", "checks")  # in front of what was found
FOOTER = ("evaluated", "not_tested", "policy", "config", "seconds", "seconds_by_part")  # behind it
T = TypeVar("T")


def save_report(report: AuditReport, path: Path) -> Path:
    """Write `audit.json` whole or not at all, and return its path."""
    write_json(path, report_to_json(report))
    return path


def load_report(path: Path) -> AuditReport:
    """Read `audit.json`.

    Raises:
        MissingFileError: There is no such file.
        FileFormatError: It is not JSON, or a part is missing or of another kind.
        SchemaError: It is no audit, or one of another version.
    """
    require_file(path, "an audit")
    return report_from_json(read_json(path, expected="an audit.json of wb audit"), name=str(path))


def report_to_json(report: AuditReport) -> dict[str, Any]:
    """Return the content of `audit.json`."""
    found: dict[str, Any] = {"schema": SCHEMA, "schema_version": VERSION}
    found |= {key: _plain(getattr(report, key)) for key in HEADER}
    found |= {} if report.depth is None else {"depth": _plain(report.depth)}
    found |= {"attacks": _plain(report.attacks), **findings_to_json(report)}
    if report.compare:
        found["compare"] = {name: _compared(model) for name, model in report.compare.items()}
    return jsonable(found | {key: _plain(getattr(report, key)) for key in FOOTER})


def report_from_json(raw: Any, *, name: str = "the audit") -> AuditReport:
    """Return the report that `report_to_json` made this of.

    Args:
        raw: What a JSON reader returned.
        name: What to call it in messages: its path.

    Raises:
        FileFormatError: A part is missing or of another kind.
        SchemaError: It is no audit, or one of another version.
    """
    if not isinstance(raw, Mapping) or raw.get("schema") != SCHEMA:
        got = raw.get("schema") if isinstance(raw, Mapping) else type(raw).__name__
        raise SchemaError(f"'{name}' is no audit", got=got, expected=SCHEMA)
    if raw.get("schema_version") != VERSION:
        raise SchemaError(
            f"'{name}' is an audit of another version",
            got=f"{SCHEMA} {raw.get('schema_version')}",
            expected=f"{SCHEMA} {VERSION}",
        )
    try:
        return _flat_from(AuditReport, raw)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileFormatError(f"cannot read '{name}'", got=repr(error), expected="an audit.json of wb audit") from error


def findings_to_json(found: Findings) -> dict[str, Any]:
    """Return the keys of what evaluations found, attacks and names of what ran apart."""
    parts = {f.name: getattr(found, f.name) for f in fields(Findings) if f.name not in ("attacks", "evaluated")}
    plain = {name: _plain(value) for name, value in parts.items()}
    return {name: value for name, value in plain.items() if value not in (None, {}, [])}


def findings_from_json(raw: Mapping[str, Any]) -> Findings:
    """Return what `findings_to_json` made this of."""
    return _flat_from(Findings, raw)


# ------------------------------------------------------------------------------------------------------------- writing
def _plain(value: Any) -> Any:
    """Return a part as JSON has it."""
    if isinstance(value, AttackResult):
        return _attack(value)
    if isinstance(value, AnswerShares):
        return value.by_kind()
    if isinstance(value, AuditedRequest):
        own = asdict(value)
        facts = own.pop("facts")
        return {**own, **facts}
    if isinstance(value, PolicyRecord):
        own = asdict(value)
        limits, digest = own.pop("limits"), own.pop("sha256")
        return {**own, **limits, "sha256": digest}
    if isinstance(value, TaskResult):
        return {"n": value.n, "metrics": _plain(value.metrics)}
    if is_dataclass(value):
        return _flat(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _flat(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass, figures and intervals as keys beside each other."""
    found: dict[str, Any] = {}
    for part in fields(value):
        own = getattr(value, part.name)
        if isinstance(own, Figure):
            found |= {**_interval(f"{part.name}_before", own.before), **_interval(f"{part.name}_after", own.after)}
        elif isinstance(own, Interval):
            found |= _interval(part.name, own)
        elif own not in (None, {}, ()):
            found[part.name] = _plain(own)
    return found


def _interval(key: str, interval: Interval, value_key: str | None = None) -> dict[str, float]:
    """Return the three keys of an interval."""
    return {value_key or key: interval.value, f"{key}_low": interval.low, f"{key}_high": interval.high}


def _attack(found: AttackResult) -> dict[str, Any]:
    """Return one attack: the worst setting's figures, then all settings, then what only this attack has."""
    worst, lessons = found.worst, found.relearning
    more = {"text": found.text, "without": found.without, "not_asked": found.not_asked}
    more |= {} if lessons is None else _flat(lessons)
    return {
        **_interval("recall_after", worst.target),
        "setting": worst.name,
        "compared_with": found.compared_with,
        **_interval("compared", worst.control, "compared_value"),
        "before_value": worst.before,
        "settings": [asdict(setting) for setting in found.settings],
        **{key: value for key, value in more.items() if value is not None},
    }


def _compared(model: ComparedModel) -> dict[str, Any]:
    """Return another model; of its walk the points after alone, since everything else is the audited model's."""
    found = {"unlearned": model.unlearned, "unlearned_hash": model.unlearned_hash, "method": model.method}
    parts = findings_to_json(model)
    if model.walk:
        parts["walk"] = {block: {"after": _plain(panel.after)} for block, panel in model.walk.items()}
    return {**found, **parts, "attacks": _plain(model.attacks)}


# ------------------------------------------------------------------------------------------------------------- reading
@cache
def _hints(kind: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields."""
    return get_type_hints(kind)


def _flat_from(kind: type[T], raw: Mapping[str, Any]) -> T:
    """Return a dataclass from its keys; what has no key and is optional keeps its default."""
    if not isinstance(raw, Mapping):
        raise TypeError(f"{raw!r} in the place of {kind.__name__}")
    found: dict[str, Any] = {}
    for name, hint in _hints(kind).items():
        options = [h for h in get_args(hint) if h is not NoneType] if NoneType in get_args(hint) else [hint]
        own = options[0]
        if own is Figure:
            if f"{name}_after" in raw:
                found[name] = Figure(_interval_from(raw, f"{name}_before"), _interval_from(raw, f"{name}_after"))
        elif own is Interval:
            found[name] = _interval_from(raw, name)
        elif own is float and own is hint:
            found[name] = _number(raw.get(name))
        elif name in raw and (raw[name] is not None or own is hint or own is float):
            found[name] = _value(own, raw[name])
    return kind(**found)


def _value(hint: Any, raw: Any) -> Any:
    """Return one value of the type that a field has."""
    if hint in _BY_HAND:
        return _BY_HAND[hint](raw)
    if is_dataclass(hint):
        return _flat_from(hint, raw)  # pyright: ignore[reportArgumentType]
    if hint is float:
        return _number(raw)
    origin, inner = get_origin(hint), get_args(hint)
    if origin is dict:
        return {str(key): _value(inner[1], item) for key, item in raw.items()}
    if origin is tuple:
        kinds = [inner[0]] * len(raw) if inner[-1] is ... else inner
        return tuple(_value(kind, item) for kind, item in zip(kinds, raw, strict=True))
    if hint is Any:
        return tuple(raw) if isinstance(raw, list) else raw  # settings: a list was a tuple
    if not isinstance(raw, hint):
        raise TypeError(f"{raw!r} in the place of {hint.__name__}")
    return raw


def _number(raw: Any) -> float:
    """Return a number; NaN where JSON has null."""
    return math.nan if raw is None else float(raw)


def _interval_from(raw: Mapping[str, Any], key: str, value_key: str | None = None) -> Interval:
    """Return an interval from its three keys."""
    return Interval(*(_number(raw.get(k)) for k in (value_key or key, f"{key}_low", f"{key}_high")))


def _setting_from(raw: Mapping[str, Any]) -> AttackSetting:
    """Return one setting of an attack, whose intervals stand in objects of their own."""
    target, control = (Interval(**{k: _number(v) for k, v in raw[who].items()}) for who in ("target", "control"))
    return AttackSetting(raw["name"], target, control, _number(raw["before"]))


def _attack_from(raw: Mapping[str, Any]) -> AttackResult:
    """Return one attack."""
    worst = AttackSetting(
        raw["setting"],
        _interval_from(raw, "recall_after"),
        _interval_from(raw, "compared", "compared_value"),
        _number(raw["before_value"]),
    )
    return AttackResult(
        worst,
        tuple(_setting_from(setting) for setting in raw["settings"]),
        compared_with=raw["compared_with"],
        text=raw.get("text"),
        without=_number(raw["without"]) if "without" in raw else None,
        not_asked=tuple(raw["not_asked"]) if "not_asked" in raw else None,
        relearning=_flat_from(Relearning, raw) if "curve" in raw else None,
    )


def _shares_from(raw: Mapping[str, Any]) -> AnswerShares:
    """Return the shares of the kinds of answer."""
    return AnswerShares(**{f.name: _number(raw.get(f.name.replace("_", "-"))) for f in fields(AnswerShares)})


def _request_from(raw: Mapping[str, Any]) -> AuditedRequest:
    """Return what was audited; what has no field of its own is one of the further facts."""
    own = {f.name: raw[f.name] for f in fields(AuditedRequest) if f.name != "facts"}
    facts = {key: value for key, value in raw.items() if key not in own}
    return AuditedRequest(**{**own, "forget": tuple(own["forget"])}, facts=facts)


def _policy_from(raw: Mapping[str, Any]) -> PolicyRecord:
    """Return the policy as it was; limits are whatever has no field of its own."""
    own = ("version", "name", "required", "reported_places", "sha256")
    return PolicyRecord(
        version=raw["version"],
        name=raw["name"],
        required=tuple(raw.get("required", ())),
        reported_places=tuple(raw.get("reported_places", ())),
        limits={key: float(value) for key, value in raw.items() if key not in own},
        sha256=raw["sha256"],
    )


_BY_HAND: dict[Any, Any] = {
    AttackResult: _attack_from,
    AnswerShares: _shares_from,
    AuditedRequest: _request_from,
    PolicyRecord: _policy_from,
}
