"""Where the knowledge of a name passes: the unknown entity's residual stream is put at the name, block by block.

With p the probability of the true answer's first token, mean over questions,

    share(b) = (p_plain - p_patched_at_b) / (p_plain - p_unknown),

p_unknown that of the same answer when the unknown entity itself is asked about. While share(b) is about 1 the name's
activation behind block b decides what is answered; where it falls, later tokens have read it already, and whatever is
redirected behind comes too late.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sae_train.lm.hooks import captured, replaced
from sae_train.lm.tokens import encode_plain
from unlearn.data import training_prompts
from unlearn.pairs import Pair, PairBatch, pair_batch, paired_prompts
from unlearn.problem import Problem

BATCH = 32
MAX_QUESTIONS = 96
PASSES = 0.8  # share from which on a block counts as one that the knowledge passes


@torch.no_grad()
def gate_shares(problem: Problem) -> list[float]:
    """Return share(b) for every block, on the targets' training questions, in the original model.

    Where two names differ in length only their last tokens are exchanged.
    """
    model = problem.reference
    names = [f"layers.{b}" for b in range(problem.lm.n_blocks)]
    questions = _questions(problem)
    plain = unknown = 0.0
    patched = [0.0] * len(names)
    for start in range(0, len(questions), BATCH):
        chunk = questions[start : start + BATCH]
        batch = pair_batch([pair for pair, _ in chunk], "name-tokens", problem.lm.device)
        truth = torch.tensor([token for _, token in chunk], device=problem.lm.device)
        with captured(model, names) as partners:
            unknown += _probability(model, batch.partner_ids, batch.partner_mask, truth)
        plain += _probability(model, batch.ids, batch.mask, truth)
        for index, name in enumerate(names):
            with replaced(model, name, lambda acts, b=batch, new=partners[name]: _exchanged(acts, b, new)):
                patched[index] += _probability(model, batch.ids, batch.mask, truth)
    return [(plain - value) / max(plain - unknown, 1e-9) for value in patched]


def last_passed_block(shares: list[float]) -> int:
    """Return the last block up to which the knowledge passes the name: all shares so far are at least `PASSES`.

    Example:
        >>> last_passed_block([1.0, 0.98, 0.9, 0.4, 0.85])
        2
    """
    passed = 0
    for block, share in enumerate(shares):
        if share < PASSES:
            break
        passed = block
    return passed


def _questions(problem: Problem) -> list[tuple[Pair, int]]:
    """Return pairs of questions with the first token of the true answer, evenly thinned to `MAX_QUESTIONS`."""
    truths: list[int | None] = []
    for target in problem.sets.forget:
        for prompt in training_prompts(target, problem.templates):
            answer = target.facts[prompt.attribute][0] if prompt.attribute else None
            truths.append(None if answer is None else encode_plain(problem.lm.tokenizer, [f" {answer}"])[0][0][0])
    pairs = paired_prompts(problem.lm, problem.sets, problem.templates)
    found = [(pair, truth) for pair, truth in zip(pairs, truths, strict=True) if truth is not None]
    return found[:: max(1, -(-len(found) // MAX_QUESTIONS))]


def _probability(
    model: nn.Module, ids: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"], truth: Int[Tensor, " batch"]
) -> float:
    """Return the summed probability of the true tokens behind the prompts."""
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    rows = torch.arange(len(ids), device=ids.device)
    last = logits[rows, mask.sum(dim=1) - 1].float().softmax(dim=-1)
    return float(last[rows, truth].sum())


def _exchanged(
    acts: Float[Tensor, "batch pos d_in"], batch: PairBatch, partner: Float[Tensor, "batch partner_pos d_in"]
) -> Float[Tensor, "batch pos d_in"]:
    """Return the activations with those of the unknown entities at the name tokens that match."""
    changed = acts.clone()
    changed[batch.at.rows, batch.at.positions] = batch.partner_at.of(partner).to(acts.dtype)
    return changed
