"""What makes a run reproducible and its output safe: output claims, hashes, seeds, run.json, metrics.jsonl.

A run folder holds `config.json` (the frozen config that ran), `run.json` (versions, commit, seed, device,
times, hashes of the inputs) and `metrics.jsonl`. Every file is written under a temporary name and renamed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import secrets
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sae_train.errors import ConfigError, MissingFileError, nearest_first
from sae_train.run.heartbeat import doing
from sae_train.text_files import read_json

if TYPE_CHECKING:
    from sae_train.run.tracking import WandbSink

_RECORDED_PACKAGES = ("torch", "transformers", "peft", "sae-lens", "h5py", "numpy", "scipy", "scikit-learn")


def require_name(path: Path, field: str = "out") -> None:
    """Refuse an output that has no name of its own: other files are named after it, beside it.

    Raises:
        ConfigError: It is the folder one is in, the root, or has a character that no file system takes.
    """
    if not path.name or "\0" in str(path):
        raise ConfigError("an output needs a name", got=repr(str(path)), field=field, expected="a file or a folder")


def partial_path(path: Path) -> Path:
    """Return the name under which `path` is written until it is whole."""
    require_name(path)
    return path.with_name(path.name + ".partial")


def run_folder(out: Path) -> Path:
    """Return where a run keeps its state until its result is whole."""
    require_name(out)
    return out.with_name(out.name + ".run")


def require_file(path: Path, what: str, *, field: str | None = None) -> Path:
    """Return `path` if it is a readable file.

    Raises:
        MissingFileError: It is not there; the nearest names in its folder are listed.
    """
    if path.is_file():
        return path
    if path.is_dir():
        got, expected = f"{path} is a folder", f"a file with {what}"
    else:
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        got = f"{path}"
        expected = f"a file with {what}" + (f"; nearest: {nearest_first(path.name, names, most=3)}" if names else "")
    raise MissingFileError(f"cannot read {what}: '{path}'", got=got, expected=expected)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        os.replace(partial, path)
    except BaseException:  # a full disk, for one
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole or not at all; NaN is refused, since no JSON reader takes it."""
    write_text(path, json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def jsonable(value: Any) -> Any:
    """Turn dataclasses, paths, arrays and numpy scalars into what JSON holds; NaN and Inf into None.

    Example:
        >>> jsonable({"a": np.float32(1.5), "b": float("nan"), "c": (1, 2)})
        {'a': 1.5, 'b': None, 'c': [1, 2]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        return jsonable(asdict(value))
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | torch.Tensor):
        return jsonable(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(v) for v in value]
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream, doing(f"hashing {path.name}"):
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_hash(folder: Path, patterns: Iterable[str] = ("*.safetensors", "*.json")) -> str:
    """Return one SHA-256 over the names and bytes of a folder's files, run records left out."""
    names = {p.name for pattern in patterns for p in folder.glob(pattern)} - {"run.json", "metrics.json"}
    return text_hash(f"{name}\0{file_hash(folder / name)}" for name in sorted(names))


def text_hash(texts: Iterable[str]) -> str:
    """Return the SHA-256 over a sequence of texts; their borders count.

    Example:
        >>> text_hash(["ab", "c"]) == text_hash(["a", "bc"])
        False
    """
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def resolve_device(device: str) -> torch.device:
    """Turn `auto`, `cpu`, `cuda[:n]`, `mps` into a device that exists here.

    Raises:
        ConfigError: The device is unknown or not on this machine.
    """
    if device == "auto":
        cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(
            f"no such device '{device}'", got=f"{device}", field="device", expected="auto, cpu, cuda, cuda:N, mps"
        ) from error
    missing = (chosen.type == "cuda" and not torch.cuda.is_available()) or (
        chosen.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing or chosen.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(
            f"this machine has no device '{device}'",
            got=f"{device}",
            field="device",
            expected="auto, cpu, or an accelerator that torch sees",
            try_="`device`=auto",
        )
    return chosen


def now() -> str:
    """Return the time in UTC, to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Run:
    """A run folder: `config.json` before the first step, `metrics.jsonl` on the way, `run.json` at both ends.

    Args:
        folder: Where; made if it is not there.
        config: The config that runs.
        command: The command that runs it.
        inputs: Hashes and names of what went in.
        wandb: Project to log to beside `metrics.jsonl`. A resumed run goes on in the wandb run it had.

    Raises:
        ConfigError: wandb cannot start; nothing is written then.
    """

    def __init__(
        self, folder: Path, *, config: object, command: str, inputs: Mapping[str, Any], wandb: str | None = None
    ) -> None:
        self.folder = folder
        self._sink = None if wandb is None else self._open_sink(wandb, config)
        folder.mkdir(parents=True, exist_ok=True)
        self.record: dict[str, Any] = {
            "run_id": f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}",
            "command": command,
            "started": now(),
            "ended": None,
            "inputs": dict(inputs),
            "versions": package_versions(),
            "git": git_commit(),
            "host": {"machine": platform.machine(), "system": platform.system(), "cpus": os.cpu_count()},
        }
        if self._sink is not None:
            self.record["wandb"] = self._sink.record
        write_json(folder / "config.json", config)
        write_json(folder / "run.json", self.record)
        _drop_cut_off_line(folder / "metrics.jsonl")

    def _open_sink(self, project: str, config: object) -> WandbSink:
        """Start a wandb run, or go on with the one that this folder's earlier run had in the project."""
        from sae_train.run.tracking import WandbSink

        record = self.folder / "run.json"
        earlier = read_json(record).get("wandb") if record.is_file() else None
        known = earlier["id"] if earlier and earlier["project"] == project else secrets.token_hex(4)
        return WandbSink(project, name=self.folder.absolute().name, run_id=known, config=jsonable(config))

    def log(self, **values: object) -> None:
        """Append one line to metrics.jsonl, and tell wandb if it listens."""
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(jsonable(values)) + "\n")
        if self._sink is not None:
            self._sink.log(values)

    def finish(self, **values: Any) -> None:
        """Write the end of the run and its result into run.json."""
        self.record |= {"ended": now(), **values}
        write_json(self.folder / "run.json", self.record)
        if self._sink is not None:
            self._sink.finish(values.get("result", {}))


def _drop_cut_off_line(path: Path) -> None:
    """Shorten a log to its whole lines: a kill or a full disk may have cut the last one off."""
    data = path.read_bytes() if path.is_file() else b""
    if data and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)


def package_versions() -> dict[str, str]:
    """Return the versions that can change a number."""
    found = {p: importlib.metadata.version(p) for p in _RECORDED_PACKAGES}
    return {"python": sys.version.split()[0], **found}


def git_commit() -> str | None:
    """Return the commit this source lies in, with '+dirty' when it was changed; None outside a checkout."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+dirty" if dirty.stdout.strip() else "")
