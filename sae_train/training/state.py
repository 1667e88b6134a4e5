"""Training state and plan: what changes during training, what is fixed before the first step, how both start."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_train.activations.joined import row_widths
from sae_train.activations.sampler import sample_rows
from sae_train.activations.store import ActivationStore
from sae_train.config import SEARCH_DTYPES, SaeTrainConfig
from sae_train.errors import NumericalError
from sae_train.quality.metrics import dead_latents
from sae_train.run.processes import Processes
from sae_train.saes import sae_from_config
from sae_train.saes.base import Sae
from sae_train.saes.centers import CENTERS
from sae_train.training.initial import take_over

STATISTICS_ROWS = 32_768
THRESHOLD_ROWS = 2_048  # of those, for thresholds: they take (rows, d_sae) numbers
SEARCH_ROWS = 512  # of those, to try searches on
# Dead latents are looked up 8 times in `dead_after_tokens`, and at least every 16 steps.
LOOKS_PER_DEATH, MOST_STEPS_UNSEEN = 8, 16
ADAM_BETAS = (0.9, 0.999)


@dataclass
class TrainState:
    """Everything that changes while training: what a checkpoint holds."""

    sae: Sae
    optimizer: torch.optim.Adam
    tokens_since_fired: Tensor  # in the rows of this process; over all of them it is the smallest
    is_dead: Tensor
    dead: Tensor  # the same by number
    step: int = 0

    def tensors(self) -> dict[str, Tensor]:
        """Return the SAE's parameters and buffers by name."""
        return self.sae.state_dict(keep_vars=True)

    def zero_grad(self) -> None:
        """Clear the gradients and free their memory."""
        # Both: for a parameter that is stored transposed the optimizer holds a tensor of its own.
        self.sae.zero_grad(set_to_none=True)
        self.optimizer.zero_grad(set_to_none=True)

    def hand_over_gradients(self) -> None:
        """Give the SAE's gradients to the optimizer, in the memory order of its parameters."""
        (group,) = self.optimizer.param_groups
        for own, as_stored in zip(self.sae.parameters(), group["params"], strict=True):
            as_stored.grad = own.grad if own is as_stored or own.grad is None else own.grad.T

    def sum_gradients(self, processes: Processes) -> None:
        """Add up the gradients of all processes."""
        (group,) = self.optimizer.param_groups
        processes.sum_(*(p.grad for p in group["params"] if p.grad is not None))

    def adam_step(self, lr: float) -> None:
        """Take one Adam step with the gradient normalised to length one.

        Adam forgets squared gradients over 1,000 steps: without this, the long ones of the beginning keep the later
        steps short (held-out FVU after 120 steps on SmolLM2's block 9: 0.26 instead of 0.30).
        """
        (group,) = self.optimizer.param_groups
        group["lr"] = lr
        gradients = [p.grad for p in group["params"] if p.grad is not None]
        length = torch.nn.utils.get_total_norm(gradients)
        length = length.clamp_min(torch.finfo(length.dtype).tiny)
        if group["fused"]:
            # As a GradScaler does: the fused step divides by it as it reads.
            self.optimizer.grad_scale = length  # pyright: ignore[reportAttributeAccessIssue]
        else:
            for gradient in gradients:
                gradient.div_(length)
        self.optimizer.step()

    def extras(self) -> dict[str, Tensor]:
        """Return what a checkpoint holds beside parameters, buffers and optimizer."""
        search = torch.tensor(SEARCH_DTYPES.index(self.sae.search_dtype))  # the machine's choice: it is not made again
        return {
            "tokens_since_fired": self.tokens_since_fired,
            "is_dead": self.is_dead,
            "search_dtype": search,
        }

    def take_extras(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `extras` returned."""
        self.tokens_since_fired.copy_(tensors["tokens_since_fired"])
        self._set_dead(tensors["is_dead"].to(self.is_dead.device))
        self.sae.search_dtype = SEARCH_DTYPES[int(tensors["search_dtype"])]

    def find_dead(self, dead_after_tokens: int) -> None:
        """Find the dead latents; the only part of a step that waits for the device."""
        self._set_dead(dead_latents(self.tokens_since_fired, dead_after_tokens))

    def _set_dead(self, is_dead: Tensor) -> None:
        self.is_dead, self.dead = is_dead, is_dead.nonzero().flatten()


@dataclass(frozen=True)
class Plan:
    """Values derived from config and store before the first step.

    Attributes:
        n_steps: Steps of the run.
        lr: Adam's step size at its highest.
        scale: What activations are multiplied by.
        dead_after_tokens: A latent is dead when it has not fired in that many.
        dead_every: Steps between two look-ups of the dead latents; each one waits for the device.
        n_train_rows: Rows that are not held out.
    """

    n_steps: int
    lr: float
    scale: float
    dead_after_tokens: int
    dead_every: int
    n_train_rows: int


def prepare(
    store: ActivationStore,
    config: SaeTrainConfig,
    use: np.ndarray,
    device: torch.device,
    *,
    sample: Float[Tensor, "row d_in"] | None = None,
) -> tuple[TrainState, Plan]:
    """Measure mean and scale on a sample, draw the weights, count the steps.

    Args:
        store: The rows (`joined_rows`).
        config: The run's.
        use: Which rows may be trained on.
        device: Where the weights will be.
        sample: What `statistics_sample` returns for these, where it is known.
    """
    sample = statistics_sample(store, config, use) if sample is None else sample
    sae = sae_from_config(config, *row_widths(store, config.hook_point))
    target = sae.target_of(sample)
    mean_norm, variance = float(target.norm(dim=1).mean()), float(target.var(dim=0, unbiased=False).sum())
    if not math.isfinite(mean_norm) or variance == 0:
        raise NumericalError(
            f"the activations at {config.target_hook_point or config.hook_point} cannot be learned",
            got=f"mean norm {mean_norm}, variance {variance}",
            expected="finite activations that vary",
        )
    n_rows = int(use.sum())
    # Mean norm sqrt(d_in), so that step sizes and thresholds mean the same everywhere; residual norms differ a lot
    # (3,400 at block 6 of Gemma-3-270m, 13,000 at block 12).
    scale = sae.d_out**0.5 / mean_norm
    d_sae = sae.d_sae
    # In this order: thresholds and search are chosen by the pre-activations that these weights give.
    sae.init_weights(CENTERS[config.b_dec_init](target) * scale, config.seed)
    sae.init_inputs(sample * scale)
    sae.init_thresholds(sample[:THRESHOLD_ROWS] * scale)
    take_over(sae, config, scale)
    sae.to(device)
    sae.choose_search_dtype((sample[:SEARCH_ROWS] * scale).to(device), config.search_dtype)
    lr = config.lr if config.lr is not None else 2e-4 / (d_sae / 2**14) ** 0.5
    n_steps = max(1, math.ceil((config.tokens or n_rows) / config.batch_size))
    # A tenth of the run: a fixed number such as 10 million tokens would never be reached in a short one.
    dead_after = config.dead_after_tokens or max(config.batch_size, n_steps * config.batch_size // 10)
    fused = device.type in ("cpu", "cuda")
    optimizer = torch.optim.Adam(map(in_memory_order, sae.parameters()), lr=lr, betas=ADAM_BETAS, fused=fused)
    since, is_dead = (torch.zeros(d_sae, dtype=kind, device=device) for kind in (torch.int64, torch.bool))
    state = TrainState(sae, optimizer, since, is_dead, dead=is_dead.nonzero().flatten())
    dead_every = min(MOST_STEPS_UNSEEN, max(1, dead_after // (LOOKS_PER_DEATH * config.batch_size)))
    return state, Plan(n_steps, lr, scale, dead_after, dead_every, n_rows)


def in_memory_order(parameter: nn.Parameter) -> nn.Parameter:
    """Return the parameter, or its transpose where it is stored column by column; both share their memory.

    Fused Adam copies whatever is not contiguous, every time: 20 ms instead of 5 for 3.3 million parameters.
    """
    return parameter if parameter.is_contiguous() else nn.Parameter(parameter.data.T)


def statistics_sample(store: ActivationStore, config: SaeTrainConfig, use: np.ndarray) -> Float[Tensor, "row d_in"]:
    """Return the rows on which mean and scale are measured."""
    return sample_rows(store, config.hook_point, use, n_rows=STATISTICS_ROWS, seed=config.rows_seed)
