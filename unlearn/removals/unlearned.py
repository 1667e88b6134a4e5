"""An unlearned model in memory: the model, the report of its run, and how it is saved."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_train.lm.models import LanguageModel, save_lm
from sae_train.run.notebook import html_table
from sae_train.run.outputs import Output, claimed, whole_folder
from sae_train.run.runs import write_json
from unlearn.removals.record import RECORD, RemovalRecord

ADAPTER = "adapter"  # folder of the adapter inside a run's working folder
RUN_FILES = {"run.json": "run.json", "config.json": "unlearn_config.json", "metrics.jsonl": "metrics.jsonl"}


@dataclass(frozen=True)
class Unlearned:
    """A model from which something was removed.

    Attributes:
        lm: The model, an adapter merged into it.
        result: What the run reports: method, steps, seconds, what changed, at which hook point.
        record: What is recorded of the removal and of those before it.
        folder: Where it was saved; None as long as it was not.
        run_folder: The run's log, and its adapter where one was trained; moved along by `save`.
        output: Holds `run_folder`, which goes away with this object where nothing is to be left on disk.
    """

    lm: LanguageModel
    result: dict[str, Any]
    record: RemovalRecord
    folder: Path | None
    run_folder: Path
    output: Output | None = None

    @property
    def hook_point(self) -> str:
        """Return the hook point of the SAE that was used."""
        return str(self.result["hook_point"])

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write a Hugging Face folder, or PEFT's adapter, with `unlearning.json` and the run's log; return the folder.

        Raises:
            OutputExistsError: The folder is taken and `overwrite` does not allow to replace it.
        """
        out = Path(folder)
        with claimed(out, overwrite=overwrite), whole_folder(out, overwrite=overwrite) as place:
            if self.folder is not None:
                shutil.copytree(self.folder, place, dirs_exist_ok=True)
            else:
                self._write(place)
            write_json(place / RECORD, {**self.record.values, "result": {**self.result, "model": str(out)}})
        return out

    def _write(self, out: Path) -> None:
        """Write what is in memory, and the run's log."""
        if self.result["is_adapter"]:
            shutil.copytree(self.run_folder / ADAPTER, out, dirs_exist_ok=True)
        else:
            save_lm(self.lm, out)
        for name, target in RUN_FILES.items():
            if (self.run_folder / name).is_file():
                shutil.copyfile(self.run_folder / name, out / target)

    def _repr_html_(self) -> str:
        """Return a small table for a notebook."""
        names = ", ".join(self.record.values.get("inputs", {}).get("forget", []))
        return html_table(f"Unlearned: {names}", {k: v for k, v in self.result.items() if not isinstance(v, dict)})
