"""KL budget: a removal goes on until KL(original || unlearned) on held-out general text is spent, and no further.

    KL = mean over tokens of sum_v p_v (log p_v - log q_v)   p the original's next token, q the unlearned model's, nats

Where a look at the model finds it beyond the budget, what is kept lies on the line from the last state within it,

    W = W_in + t (W_out - W_in),   t such that 0.95 budget <= KL <= budget,

found by turns of bisection and of interpolation in sqrt(KL), which near the original grows like t. A weight edit that
is written at once is scaled in the same way, W_in being the weights before it. A state is measured in the number
format in which it will be stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from sae_train.errors import ConfigError
from sae_train.lm.generate import pad_right
from sae_train.lm.hooks import capture
from sae_train.lm.logit_lens import final_logits
from sae_train.lm.models import LanguageModel, round_to_stored
from sae_train.quality.metrics import kl_divergence
from sae_train.quality.splice import MAX_LOGITS
from sae_train.run.processes import ALONE, Processes

SLACK = 0.05  # of the budget that may stay unused where it is reached
MOST_WINDOWS = 32  # in one forward pass
MOST_TRIES = 60  # bisection alone is at the last bit of a float32 by then


class KlMeter:
    """Measures KL(original || model) on fixed windows; what the original says is computed once, and kept.

    Kept are final hidden states, not log-probabilities: of a wide vocabulary these would take a gigabyte.

    Args:
        lm: The model that changes.
        original: The one it is compared with, which does not.
        windows: Token ids of held-out general text.
        processes: Each measures its part of the windows.
    """

    def __init__(
        self, lm: LanguageModel, original: nn.Module, windows: Sequence[Sequence[int]], processes: Processes = ALONE
    ) -> None:
        self.lm, self.processes = lm, processes
        self.original = replace(lm, model=original)
        ordered = sorted(windows, key=len)[processes.rank :: processes.count]
        longest = max(map(len, ordered), default=1)
        size = max(1, min(MOST_WINDOWS, MAX_LOGITS // (longest * len(lm.tokenizer))))
        self.batches = [ordered[i : i + size] for i in range(0, len(ordered), size)]
        self.kept: list[Tensor] = []

    @torch.no_grad()
    def read_original(self) -> None:
        """Read what the original says, once; from then on only its final norm and head are used."""
        if len(self.kept) < len(self.batches):
            self.kept = [_last_acts(self.original, batch) for batch in self.batches]

    @torch.no_grad()
    def measure(self) -> float:
        """Return the mean KL of the model as it is, nats a token."""
        self.read_original()
        sums = torch.zeros(2, dtype=torch.float64)
        for batch, before in zip(self.batches, self.kept, strict=True):
            after = _last_acts(self.lm, batch)
            log_p, log_q = (
                final_logits(lm, acts).log_softmax(dim=-1) for lm, acts in ((self.original, before), (self.lm, after))
            )
            sums += torch.tensor([float(kl_divergence(log_p, log_q).sum()), len(after)], dtype=torch.float64)
        self.processes.sum_(sums)
        return float(sums[0] / sums[1])


def _last_acts(lm: LanguageModel, windows: Sequence[Sequence[int]]) -> Tensor:
    """Return the residual stream behind the last block at every token, (n_tokens, d_model)."""
    ids, mask = pad_right(windows, device=lm.device)
    name = f"layers.{lm.n_blocks - 1}"
    return capture(lm, ids, mask, [name])[name][mask.bool()]


class Budget:
    """Holds a run within a KL budget.

    Args:
        meter: Measures the damage.
        limit: The budget, nats a token.
        parameters: What the run changes, by name, as it is before the run changes anything.
        is_rounded: Whether the weights will be rounded to the format in which they are stored.

    Attributes:
        kl: The KL of the last state within the budget.

    Raises:
        ConfigError: The model that the run starts from is beyond the budget already.
    """

    def __init__(self, meter: KlMeter, limit: float, parameters: Mapping[str, Tensor], *, is_rounded: bool) -> None:
        self.meter, self.limit, self.parameters = meter, limit, parameters
        self.is_rounded = is_rounded
        self.kl = self._measured()
        self.within = self._copy()
        if not self.kl < limit:
            raise ConfigError(
                "the KL budget is spent before the run begins",
                got=f"KL {self.kl:.4g} from the model before the first removal",
                expected=f"less than {limit:g} (`kl_budget`)",
                try_="a larger `kl_budget`: what earlier removals cost counts",
            )

    @property
    def is_reached(self) -> bool:
        """Tell whether no more than `SLACK` of the budget is left."""
        return self.kl >= (1 - SLACK) * self.limit

    def is_spent(self) -> bool:
        """Look at the model; where it is beyond the budget, put it back to where the budget is used up.

        Returns:
            Whether the run is over.
        """
        kl = self._measured()
        if kl <= self.limit:
            self.kl, self.within = kl, self._copy()
        else:
            self._spend(kl, has_full_size=True)
        return self.is_reached

    def scale(self, *, has_full_size: bool) -> float:
        """Scale a weight edit, which has been written, to the budget.

        Args:
            has_full_size: The edit as it was written is the largest there is; else it may be any multiple of it.

        Returns:
            The edit kept, in units of the one that was written.
        """
        return self._spend(self._measured(), has_full_size=has_full_size)

    def _spend(self, kl: float, *, has_full_size: bool) -> float:
        """Go as far as the budget allows on the line from the last state within it through the model as it is."""
        moves = {n: p.detach() - self.within[n] for n, p in self.parameters.items()}

        def kl_at(share: float) -> float:
            self._put(moves, share)
            return self._measured()

        share, self.kl = furthest_within(kl_at, self.limit, start=self.kl, end=kl, has_full_size=has_full_size)
        self._put(moves, share)
        self.within = self._copy()
        return share

    @torch.no_grad()
    def _put(self, moves: Mapping[str, Tensor], share: float) -> None:
        """Set the parameters to W_in + share (W_out - W_in)."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.within[name] + share * moves[name])

    def _copy(self) -> dict[str, Tensor]:
        """Return a copy of the parameters as they are."""
        return {n: p.detach().clone() for n, p in self.parameters.items()}

    @torch.no_grad()
    def _measured(self) -> float:
        """Measure the model as it will be stored."""
        if not self.is_rounded:
            return self.meter.measure()
        exact = self._copy()
        round_to_stored(self.meter.lm)
        kl = self.meter.measure()
        for name, parameter in self.parameters.items():
            parameter.copy_(exact[name])
        return kl

    def carried(self) -> dict[str, Tensor]:
        """Return the last state within the budget and its KL, for a checkpoint."""
        return {"kl": torch.tensor(self.kl, dtype=torch.float64), **{f"within.{n}": w for n, w in self.within.items()}}

    def take_up(self, carried: Mapping[str, Tensor]) -> None:
        """Go on with what was saved."""
        self.kl = float(carried["kl"])
        for name, value in self.within.items():
            value.copy_(carried[f"within.{name}"])


def furthest_within(
    kl_at: Callable[[float], float], limit: float, *, start: float, end: float, has_full_size: bool
) -> tuple[float, float]:
    """Return how far one can go from 0 within a limit, and the KL there: within `SLACK` of it, or at the full size.

    Args:
        kl_at: The KL at a share of the way; continuous, not necessarily rising.
        limit: The largest KL allowed.
        start: The KL at 0, below the limit.
        end: The KL at 1; not finite counts as beyond the limit.
        has_full_size: There is nothing beyond 1.

    Example:
        >>> share, kl = furthest_within(lambda s: s**2, 0.01, start=0.0, end=1.0, has_full_size=True)
        >>> round(share, 2), kl <= 0.01
        (0.1, True)
    """
    low, kl_low, high, kl_high = 0.0, start, 1.0, end
    for _ in range(MOST_TRIES):
        if has_full_size or not kl_high <= limit:
            break
        low, kl_low, high = high, kl_high, 2 * high
        kl_high = kl_at(high)
    if kl_high <= limit:
        return high, kl_high
    for number in range(MOST_TRIES):
        if kl_low >= (1 - SLACK) * limit:
            break
        share = low + (high - low) * _aim(kl_low, kl_high, limit, is_even=number % 2 == 0)
        kl = kl_at(share)
        if kl <= limit:
            low, kl_low = share, kl
        else:
            high, kl_high = share, kl
    return low, kl_low


def _aim(kl_low: float, kl_high: float, limit: float, *, is_even: bool) -> float:
    """Return where to look next, as a share of the interval: by interpolation in sqrt(KL), or in the middle."""
    if not is_even or not math.isfinite(kl_high):
        return 0.5
    low, high, aim = (math.sqrt(max(kl, 0.0)) for kl in (kl_low, kl_high, (1 - SLACK / 2) * limit))
    return min(0.99, max(0.01, (aim - low) / (high - low)))
