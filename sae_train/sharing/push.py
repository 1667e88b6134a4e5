"""An SAE folder goes to the Hugging Face hub, in one commit, with its card.

What is sent is what others need: weights, `cfg.json`, config, figures, card. The run's log stays here, and so does
every path of this machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sae_train.config import PushConfig
from sae_train.errors import ConfigError, RunError
from sae_train.fields import config_of
from sae_train.saes.base import Sae
from sae_train.saes.interop import METRICS, WEIGHTS
from sae_train.sharing.card import card_of
from sae_train.text_files import read_json

CARD = "README.md"
SENT = ("config.json", METRICS)  # beside weights and cfg.json, where they are there


@dataclass(frozen=True)
class Upload:
    """What goes to the hub.

    Attributes:
        repo_id: `owner/name`.
        path_in_repo: Folder there.
        files: By path in the repository: a file of this machine, or the content itself.
        card: The card, which is among the files.
        is_private: A repository that does not exist yet becomes a private one.
    """

    repo_id: str
    path_in_repo: str
    files: Mapping[str, Path | bytes]
    card: str
    is_private: bool

    @property
    def n_bytes(self) -> int:
        """Size of all files."""
        return sum(len(f) if isinstance(f, bytes) else f.stat().st_size for f in self.files.values())


def plan_push(folder: Path | str, repo_id: str, *, config: PushConfig | None = None, **settings: Any) -> Upload:
    """Return what `push_sae` would send; nothing is sent.

    Raises:
        MissingFileError: There is no SAE folder.
        ConfigError: The repository has no such name, or the SAE names its model by a path of this machine.
    """
    config, folder = config_of(PushConfig, config, settings), Path(folder)
    _check_repo_id(repo_id)
    Sae.load(folder)  # what does not load here loads nowhere
    cfg = read_json(folder / "cfg.json")
    place = PurePosixPath(config.path_in_repo or cfg["metadata"]["hook_point"])
    if place.is_absolute() or ".." in place.parts or place == PurePosixPath("."):
        raise ConfigError(
            "no folder of a repository",
            got=str(place),
            field="path_in_repo",
            expected="a relative path, such as layers.6",
        )
    path_in_repo = str(place)
    cfg["metadata"] |= {"model_name": _model_name(cfg["metadata"].get("model_name"), config.model_name)}
    metrics = read_json(folder / METRICS) if (folder / METRICS).exists() else {}
    card = card_of(repo_id, cfg, metrics, path_in_repo=path_in_repo, data=config.data, licence=config.licence)
    files: dict[str, Path | bytes] = {
        f"{path_in_repo}/{WEIGHTS}": folder / WEIGHTS,
        f"{path_in_repo}/cfg.json": json.dumps(cfg, indent=2).encode(),
        f"{path_in_repo}/{CARD}": card.encode(),
        **{f"{path_in_repo}/{name}": folder / name for name in SENT if (folder / name).exists()},
    }
    return Upload(repo_id, path_in_repo, files, card, config.private)


def push_sae(
    folder: Path | str,
    repo_id: str,
    *,
    config: PushConfig | None = None,
    token: str | None = None,
    **settings: Any,
) -> str:
    """Send an SAE folder to the Hugging Face hub, in one commit; SAELens and `import_sae` load it from there.

    Another hub than the public one is named by the variable HF_ENDPOINT, as huggingface_hub has it.

    Args:
        folder: The SAE folder.
        repo_id: `owner/name`; a repository that does not exist yet is made.
        config: The frozen config; or give its fields.
        token: Of the hub; by default the one that `hf auth login` left, or `HF_TOKEN`.
        settings: Fields of `PushConfig`.

    Returns:
        Address of the commit.

    Raises:
        MissingFileError: There is no SAE folder.
        ConfigError: The repository has no such name, or the SAE names its model by a path of this machine.
        RunError: The hub cannot be reached, or refuses.
    """
    return send(plan_push(folder, repo_id, config=config, **settings), token=token)


def send(upload: Upload, *, token: str | None = None) -> str:
    """Send what `plan_push` returned; return the address of the commit. Arguments and errors as in `push_sae`."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=token)
    with _in_words(upload.repo_id):
        api.create_repo(upload.repo_id, private=upload.is_private or None, exist_ok=True)
        files = dict(upload.files)
        if CARD not in {f.rfilename for f in api.model_info(upload.repo_id).siblings or ()}:
            files[CARD] = upload.card.encode()  # the first SAE's card is the repository's page
        # huggingface_hub reads a file where it is given a path as text.
        added = [CommitOperationAdd(p, f if isinstance(f, bytes) else str(f)) for p, f in sorted(files.items())]
        done = api.create_commit(upload.repo_id, added, commit_message=f"SAE at {upload.path_in_repo}")
    return str(done.commit_url)


def _check_repo_id(repo_id: str) -> None:
    """Refuse a name that the hub does not take."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
        is_whole = repo_id.count("/") == 1
    except HFValidationError:
        is_whole = False
    if not is_whole:
        raise ConfigError("no repository of the Hugging Face hub", got=repo_id, field="repo_id", expected="owner/name")


def _model_name(own: str | None, given: str | None) -> str:
    """Return what the language model is called elsewhere."""
    name = given or own or ""
    if Path(name).is_absolute() or name.startswith((".", "~")) or (name and Path(name).exists()):
        raise ConfigError(
            "the SAE names its language model by a path, which nobody else has",
            got=name,
            field="model_name",
            expected="the model's id on the hub, as in HuggingFaceTB/SmolLM2-135M-Instruct",
        )
    return name


@contextmanager
def _in_words(repo_id: str) -> Iterator[None]:
    """Say what the hub, or the way to it, has against it.

    Raises:
        RunError: Something.
    """
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    client: Any = HfHubHTTPError.__bases__  # the base of whichever HTTP client the hub uses
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise RunError(
            f"cannot send to '{repo_id}'",
            got="this machine is told to be offline (HF_HUB_OFFLINE)",
            expected="a connection to the Hugging Face hub",
        ) from error
    except (*client, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        text = str(error).strip()
        raise RunError(
            f"cannot send to '{repo_id}'",
            got=f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__,
            expected="a connection to the Hugging Face hub, and the right to write there",
            try_="hf auth login, or the variable HF_TOKEN" if status in (401, 403) else None,
        ) from error
