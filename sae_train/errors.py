"""Typed errors that users can cause, in one tree, and the form of their messages.

Everything the workbench raises on purpose derives from `WorkbenchError`; whatever else comes up is a defect
and keeps its traceback. The command line turns the tree into exit codes in one place (`cli/main.py`).

    WorkbenchError                 something the user can act on
    ├── InputError                 bad input or usage                             exit code 2
    │   ├── ConfigError            a setting is unknown or out of range
    │   ├── MissingFileError       a path does not exist or cannot be read
    │   ├── FileFormatError        a file is not what it should be
    │   │   └── SchemaError        one of ours, but of another kind or version
    │   ├── OutputExistsError      the output is there already
    │   ├── HookPointError         the language model has no such hook point
    │   ├── ArchitectureError      the language model's layout is not understood
    │   ├── ShapeError             arrays that do not fit together
    │   ├── EntityError            an entity or a list of them cannot be used
    │   ├── DtypeError             values that the chosen dtype cannot hold
    │   ├── BusyError              another process is writing the same output
    │   ├── DiskSpaceError         the result would not fit on the disk
    │   └── MemoryShortError       the run would not fit into memory
    └── RunError                   a run that started and could not finish        exit code 1
        ├── NumericalError         NaN, Inf or an exploding loss
        ├── StoppedError           the disk filled up; what is written can be continued
        ├── NoChangeError          an unlearning run that changed nothing
        ├── CollapseError          an unlearning run that destroyed the model
        └── UnreachedError         an unlearning run that did not reach its target
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable

_FIELD = re.compile(r"`([a-z][a-z0-9_]*)`")  # how a message marks the name of a field or parameter


class WorkbenchError(Exception):
    """Say what could not be done, what came in, what was expected and what to try.

    The library names fields and parameters, marked with backticks in any of the texts; what they are called where the
    user gave them is known to the caller alone, who sets `name_of`: the command line calls `lr` `--lr`.

    Args:
        what: What could not be done, naming the thing.
        got: The value.
        expected: The rule or the allowed values, nearest match first.
        try_: One command or setting that helps.
        field: The field or parameter that `got` was given for.

    Attributes:
        name_of: Returns what a field or parameter is called where the user gave it; in the library its name.

    Example:
        >>> error = InputError("no hook point 'layer.1'", got="layer.1", expected="layers.1", field="hook_point")
        >>> print(error)
        no hook point 'layer.1'
          got:      layer.1 (hook_point)
          expected: layers.1
        >>> error = ConfigError("lr is out of range", got=-1.0, expected="> 0", try_="a smaller `lr`", field="lr")
        >>> error.name_of = lambda name: f"--{name}"
        >>> print(error)
        lr is out of range
          got:      -1.0 (--lr)
          expected: > 0
          try:      a smaller --lr
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        got: object = None,
        expected: object = None,
        try_: str | None = None,
        field: str | None = None,
    ) -> None:
        self.what = what
        self.got = got
        self.expected = expected
        self.try_ = try_
        self.field = field
        self.name_of: Callable[[str], str] = str
        super().__init__(what)

    def __str__(self) -> str:
        got = self.got if self.field is None else f"{self.got} ({self.name_of(self.field)})"
        lines = [self.what]
        for label, value in (("got", got), ("expected", self.expected), ("try", self.try_)):
            if value is not None:
                lines.append(f"  {label + ':':<9} {value}")
        return _FIELD.sub(lambda found: self.name_of(found[1]), "\n".join(lines))


class InputError(WorkbenchError):
    """Bad input or usage; nothing was written."""

    exit_code = 2


class ConfigError(InputError):
    """A setting is unknown or out of range."""


class MissingFileError(InputError):
    """A path does not exist or cannot be read."""


class FileFormatError(InputError):
    """A file is not in the format it should be in."""


class SchemaError(FileFormatError):
    """A workbench file of another kind, or of a newer version than this program reads."""


class OutputExistsError(InputError):
    """The output path is taken, and it is neither to be replaced nor to be continued."""


class HookPointError(InputError):
    """The language model, or the file, has no such hook point."""


class ArchitectureError(InputError):
    """The language model keeps its parts where nothing here looks, or computes otherwise than they say."""


class ShapeError(InputError):
    """Two arrays that should fit together do not."""


class EntityError(InputError):
    """An entity, or a list of entities, cannot be used."""


class DtypeError(InputError):
    """The values do not fit into the chosen dtype."""


class BusyError(InputError):
    """Another process is writing the same output."""


class DiskSpaceError(InputError):
    """The result would not fit on the disk."""


class MemoryShortError(InputError):
    """The run would not fit into memory."""


class RunError(WorkbenchError):
    """A run that started and could not finish."""


class NumericalError(RunError):
    """NaN, Inf or an exploding loss; the last good checkpoint stays."""


class StoppedError(RunError):
    """The disk filled up on the way; what is written can be continued."""


class NoChangeError(RunError):
    """An unlearning run that changed nothing."""


class CollapseError(RunError):
    """An unlearning run that destroyed the model."""


class UnreachedError(RunError):
    """An unlearning run that ended before its targets passed."""


def nearest_first(value: object, allowed: Iterable[str], *, most: int = 6) -> str:
    """Render allowed values, the ones nearest to `value` first.

    Example:
        >>> nearest_first("layer.1", ["embed", "layers.0", "layers.1"])
        'layers.1, layers.0, embed'
    """
    ranked = sorted(allowed, key=lambda a: -difflib.SequenceMatcher(None, str(value), a).ratio())
    more = f", … ({len(ranked) - most} more)" if len(ranked) > most else ""
    return ", ".join(ranked[:most]) + more
