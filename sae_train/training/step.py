"""One training step: forward and backward over micro batches, summed gradients, Adam, counters of dead latents."""

from __future__ import annotations

from torch import Tensor

from sae_train.config import SaeTrainConfig
from sae_train.machine.arithmetic import autocast
from sae_train.run.processes import ALONE, Processes
from sae_train.saes.base import StepContext
from sae_train.saes.losses.whole_batch import WholeBatch
from sae_train.training.state import Plan, TrainState


def lr_factor(step: int, config: SaeTrainConfig, n_steps: int) -> float:
    """Return the share of the full step size at a step: linear warm-up, constant, linear decay to zero."""
    warmup = min(1.0, (step + 1) / max(1, min(config.lr_warmup_steps, n_steps)))
    decay_steps = max(1, int(config.frac_lr_decay * n_steps))
    return min(warmup, (n_steps - step) / decay_steps, 1.0)


def train_step(
    state: TrainState, acts: Tensor, config: SaeTrainConfig, plan: Plan, processes: Processes = ALONE
) -> dict[str, Tensor]:
    """Advance the state by one batch; return the terms of the loss, still on the device.

    Args:
        state: It ends up the same in every process.
        acts: The rows of this process, in the model's own scale.
        config: The run's.
        plan: The run's.
        processes: The processes that have the other rows of the batch. Returned terms are this process's share: their
            sum over processes is the batch's.
    """
    if state.step % plan.dead_every == 0:
        # A process counts firings in its own rows only, so the smallest counter is the right one.
        processes.min_(state.tokens_since_fired)
        state.find_dead(plan.dead_after_tokens)
    acts = acts * plan.scale
    context = StepContext(
        is_dead=state.is_dead,
        dead_latents=state.dead,
        progress=state.step / plan.n_steps,
        auxk_alpha=config.auxk_alpha,
        l1_coefficient=config.l1_coefficient,
        frac_l1_warmup=config.frac_l1_warmup,
        frequency_coefficient=config.frequency_coefficient,
        max_frequency=config.max_frequency,
        step_share=1 / plan.n_steps,
        batch=WholeBatch.of(state.sae.target_of(acts), n_micro=config.accumulate, processes=processes),
    )
    terms = _backward(state, acts, config, context)
    state.sae.after_step(context, terms)
    state.hand_over_gradients()
    state.sum_gradients(processes)
    # The part along a decoder row would only change its length, which is reset below, but would stay in Adam's moments.
    state.sae.project_decoder_gradient()
    state.adam_step(plan.lr * lr_factor(state.step, config, plan.n_steps))
    state.zero_grad()  # its memory is another SAE's now
    state.sae.normalize_decoder()
    state.step += 1
    # Divided, because terms are summed over the processes and each of them knows the same dead latents.
    return {**terms, "frac_dead": context.is_dead.float().mean() / processes.count}


def _backward(state: TrainState, acts: Tensor, config: SaeTrainConfig, context: StepContext) -> dict[str, Tensor]:
    """Add these rows' gradients in the SAE and update the counters of dead latents; return the terms."""
    # First counted for all latents, then set back to zero for those that fire in any micro batch.
    assert context.batch is not None
    state.tokens_since_fired += context.batch.n_tokens
    sums: dict[str, Tensor] = {}
    for rows in acts.chunk(config.accumulate):
        with autocast(acts.device, enabled=config.autocast):
            result = state.sae.training_loss(rows, context)
        result.loss.backward()
        state.tokens_since_fired.masked_fill_(result.fired, 0)
        terms = {"loss": result.loss.detach(), **result.terms}
        sums = {name: sums[name] + value for name, value in terms.items()} if sums else terms
    return sums
