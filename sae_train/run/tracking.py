"""Weights & Biases as a second log of what `metrics.jsonl` holds; imported only when requested.

Online or offline is wandb's own affair (`WANDB_MODE=offline`, `wandb sync` later), and so is where its files lie
(`WANDB_DIR`, by default `wandb/` in the folder one is in).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae_train.errors import ConfigError


class WandbSink:
    """One wandb run. Several may be open at the same time.

    Args:
        project: Its project.
        name: What the run is called, such as the name of the run folder.
        run_id: The id under which it goes on when a run is resumed.
        config: The config that runs.

    Raises:
        ConfigError: wandb cannot start: no login, no such project, no network.
    """

    def __init__(self, project: str, *, name: str, run_id: str, config: Mapping[str, Any]) -> None:
        import wandb

        self.project, self.run_id = project, run_id
        self._offline = wandb.setup().settings.mode not in ("online", "shared")
        try:
            self._run = wandb.init(
                project=project,
                name=name,
                id=run_id,
                config=dict(config),
                resume=None if self._offline else "allow",
                reinit="create_new",
                # Its own lines go to stdout, which belongs to the result.
                settings=wandb.Settings(silent=True, console="off"),
            )
        except Exception as error:  # noqa: BLE001  the library raises unrelated types here
            raise ConfigError(
                "cannot log to wandb",
                got=f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]} (`wandb` {project})",
                expected="a login that may write to this project",
                try_="wandb login, or WANDB_MODE=offline, or no `wandb`: metrics.jsonl holds the same",
            ) from error

    @property
    def record(self) -> dict[str, str]:
        """Return what `run.json` says about it: project, id, and where to look at it."""
        return {
            "project": self.project,
            "id": self.run_id,
            "at": self._run.dir if self._offline else str(self._run.url),
        }

    def log(self, values: Mapping[str, Any]) -> None:
        """Send the numbers of one line of `metrics.jsonl`; those of a split are named `split/name`."""
        split = values.get("split")
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float) and k != "step"}
        named = {f"{split}/{k}" if split else k: v for k, v in numbers.items()}
        self._run.log(named, step=values.get("step"))

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the result as the run's summary and end it."""
        self._run.summary.update({k: v for k, v in result.items() if isinstance(v, int | float | str)})
        self._run.finish()
