"""Activations that a language model computes when they are asked for: a store without a file.

Rows and their number format are those of the store that `cache_activations` would write; windows stand in drawn order.
A chunk is as many rows as one forward pass gives; asked for, its windows are run, those that reach into its neighbours
too. Since chunks can be asked for in any order, whoever reads a store shuffled (`sampler.py`) reads this one so: two
buffers of bounded size, filled in turn with chunks of windows from all over the text, are the only activations in
memory; the tokens lie in the folder for temporary files. What was computed is not kept, so that a second pass over the
text is computed again.
"""

from __future__ import annotations

import tempfile
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_train.activations.caching import checked_config, planned
from sae_train.activations.encoding import STORED_KIND, decode_acts, encode_acts
from sae_train.activations.forward import BatchRunner
from sae_train.activations.store import ActivationStore
from sae_train.activations.travel import Rows, checked_rows
from sae_train.activations.writing.writer import store_identity
from sae_train.config import CacheConfig
from sae_train.errors import ConfigError
from sae_train.fields import config_of
from sae_train.lm.hooks import verify_hook_points
from sae_train.lm.models import LanguageModel, as_lm
from sae_train.text.token_plan import TokenPlan
from sae_train.text.tokens import Text, corpus_of
from sae_train.text.windows import shuffled_windows


class ComputedStore(ActivationStore):
    """A store whose chunks are forward passes.

    Args:
        lm: The language model, which has to stay as it is.
        plan: What it reads.
        config: Hook points (canonical names) and formats.
        text_name: Name of the text, for the record.
    """

    def __init__(self, lm: LanguageModel, plan: TokenPlan, config: CacheConfig, text_name: str) -> None:
        self.path, self.result, self.output = Path(text_name), None, None
        self.lm, self.plan = lm, plan
        self.hook_points, self.dtype, self.n_rows = list(config.hook_points), config.dtype, plan.n_rows
        self.attrs = {**store_identity(lm, plan, config), "model": lm.name, "text": text_name, "n_rows": plan.n_rows}
        self._runner = BatchRunner(lm, plan, config.hook_points, config.windows_per_batch, config.dtype)
        self._chunk_rows = min(self.n_rows, config.windows_per_batch * (config.ctx_len - plan.n_prefix))
        self._lock = Lock()  # the thread that reads ahead and the one that evaluates share the model's hooks
        self._last: tuple[int, dict[str, np.ndarray]] = (-1, {})

    def close(self) -> None:
        """Do nothing: the model is its owner's."""

    def row_field(self, name: str) -> np.ndarray:
        """Return a field of every row, (n_rows,)."""
        return self.plan.row_field(name)

    def d_in(self, hook_point: str) -> int:
        """Return the width of the activations."""
        return self.lm.d_model

    def chunk_rows(self, hook_point: str) -> int:
        """Return the number of rows that one forward pass gives."""
        return self._chunk_rows

    def n_chunks(self, hook_point: str) -> int:
        """Return the number of chunks."""
        return -(-self.n_rows // self._chunk_rows)

    def chunk(self, hook_point: str, index: int) -> np.ndarray:
        """Compute one chunk, as a store would hold it.

        Raises:
            NumericalError, DtypeError: As `cache_activations`.
        """
        with self._lock:
            if self._last[0] != index:  # the last one stays: of a transcoder, input and output are asked for in turn
                first, end = index * self._chunk_rows, min((index + 1) * self._chunk_rows, self.n_rows)
                windows = self._windows(first, end)
                start = first - int(self._runner.rows_before[windows.start])
                acts = self._run(windows)
                found = {name: rows[start : start + end - first] for name, rows in acts.items()}
                self._last = (index, {name: self._encoded(name, rows) for name, rows in found.items()})
            return self._last[1][hook_point]

    def rows_where(self, hook_point: str, part: slice, use: Bool[np.ndarray, " row"]) -> Float[Tensor, "used d_in"]:
        """Return the rows of a part where `use` is true; windows without any are not run."""
        first, end, _ = part.indices(self.n_rows)
        before = self._runner.rows_before
        wanted, where = [], []
        for window in self._windows(first, end):
            rows = np.arange(int(before[window]), int(before[window + 1]))
            here = (rows >= first) & (rows < end)
            here[here] = use[rows[here] - first]
            if here.any():
                wanted.append(window)
                where.append(here)
        if not wanted:
            return torch.empty(0, self.d_in(hook_point))
        with self._lock:
            rows = self._run(wanted)[hook_point][torch.from_numpy(np.concatenate(where))]
        return decode_acts(self._encoded(hook_point, rows), self.dtype)

    def identity(self) -> dict[str, Any]:
        """Return what decides the content, and the order in which it is read shuffled."""
        return {**super().identity(), "computed_chunk_rows": self._chunk_rows}

    def _windows(self, first: int, end: int) -> range:
        """Return the windows that hold the rows `first` to `end`."""
        before = self._runner.rows_before
        return range(bisect_right(before, first) - 1, bisect_left(before, end))

    def _run(self, windows: Sequence[int]) -> Rows:
        """Run windows, as many at a time as one forward pass takes; return the rows of all of them."""
        n = self._runner.batch_size
        parts = [self._runner.windows(windows[i : i + n]) for i in range(0, len(windows), n)]
        return {name: torch.cat([acts[name] for acts in parts]) for name in self.hook_points}

    def _encoded(self, name: str, rows: Float[Tensor, "row d_in"]) -> np.ndarray:
        """Return rows as a store would hold them."""
        found = encode_acts(checked_rows(rows, name, self.dtype), self.dtype)
        assert found.dtype == STORED_KIND[self.dtype]
        return found


def computed_activations(
    lm: LanguageModel | str | Path,
    text: Text,
    hook_points: str | Sequence[str] | None = None,
    *,
    device: str = "auto",
    lm_dtype: str = "float32",
    config: CacheConfig | None = None,
    **settings: Any,
) -> ComputedStore:
    """Return the activations of a language model over a text, to be computed when they are read; nothing is written.

    Args:
        lm: The model, or what `load_lm` takes.
        text: A path, a hub dataset id, a `Corpus`, or documents or strings.
        hook_points: Where, `layers.2`; needed where `config` does not say.
        device: Where a model that is loaded here lives.
        lm_dtype: Format a model that is loaded here computes in.
        config: Settings together, instead of one by one.
        settings: Fields of `CacheConfig`: `ctx_len=128`, `max_tokens`, `packing`, `dtype`, …

    Returns:
        What stands wherever an open `ActivationStore` does, as in `train_sae`.

    Raises:
        ConfigError: A setting does not exist or is out of range, or asks for rows of entity contexts.
        HookPointError: The model has no such hook point.
    """
    if hook_points is not None:
        settings["hook_points"] = (hook_points,) if isinstance(hook_points, str) else tuple(hook_points)
    config = config_of(CacheConfig, config, settings, can_change=True)  # refused before the model is loaded
    if config.frac_entity_rows:
        raise ConfigError(
            "rows of entity contexts are read from a store",
            got=config.frac_entity_rows,
            field="frac_entity_rows",
            expected="0 where activations are computed as they are read",
        )
    corpus = corpus_of(text)
    lm = as_lm(lm, device=device, dtype=lm_dtype)
    config = checked_config(config, lm)
    folder = Path(tempfile.gettempdir())
    plan = shuffled_windows(planned(lm, corpus, (), config, folder), config.seed, folder)
    first = torch.from_numpy(plan.tokens[plan.window(0)][:32]).long()[None].to(lm.device)
    verify_hook_points(lm, first, config.hook_points)
    return ComputedStore(lm, plan, config, corpus.name)
