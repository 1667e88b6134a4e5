"""Redirection: train targets' activations toward a paired unknown entity, and erase what later blocks hold.

Method family after Yamashita et al. 2025 (arXiv:2509.15631), the loss derived from its abstract. With h the
activations of the model being trained, p those of the original model for the paired unknown entity in the same prompt:

    latent = mean_j huber((a_j(h) - a_j(p)) / s_j)   selected latents' pre-activations at the SAE's hook point
    block  = mean_l ||h_l - t_l||^2 / v_l            t_l = p_l; at the SAE's hook point, if asked, t = SAE(p), decoded
    output = KL(next token after p || next token after h)
    shift  = mean_l ||mean (h_l - p_l)||^2 / v_l     batch means, at names and behind apart

Every term is bounded below by zero and has its minimum at the unknown entity; pre-activations and a decoded target
give a gradient to latents that are off, where TopK itself gives none.

That hides the key; what the later blocks hold behind it stays, and relearning one fact, or putting the original
activation back, brings all of it back. So, erase behind the key: at every step the *original* model's activations are
put at the name tokens of one block, drawn among the early and middle ones, wholly or a share of the way, and what comes
behind has to be as for the unknown entity all the same:

    erase  = block_weight * mean_{l > b} ||h~_l - p_l||^2 / v_l + output_weight * KL(next token after p || after h~)

What was removed from the model before is redirected again beside the new targets, which have at least half of every
batch: only retained as it was, it would come back, a little with every removal that keeps everything else original.

And so that lessons bring back no more than they teach an unknown entity: the guard of `losses/relearn_guard.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from sae_train.lm.generate import logits_at
from sae_train.lm.hook_names import block_index
from sae_train.lm.hooks import capture, captured, replaced
from sae_train.lm.models import LanguageModel
from sae_train.rng import rng
from unlearn.finetuning.finetune import LossTerms, Part
from unlearn.losses.divergence import next_token_kl
from unlearn.losses.relearn_guard import RelearnGuard
from unlearn.losses.retention import Retention, block_names
from unlearn.methods.redirect_closed_form import RedirectClosedForm
from unlearn.problem.data import UnlearnSets
from unlearn.problem.paired_prompts import Pair, PairBatch, aimed_prompts, pair_batch
from unlearn.problem.problem import Problem
from unlearn.settings.redirection import ClosedFormSettings, RedirectSettings

MIN_STD = 1e-3  # of a pre-activation, so that a constant one does not divide by zero


@dataclass(frozen=True)
class PutBack:
    """Activation patching in the erase term: where the original activations are patched in.

    Attributes:
        block: Behind which block.
        share: Interpolation weight per prompt: 0 keeps the model's own activation, 1 is the original one.
    """

    block: int
    share: Float[Tensor, " batch"]


class Redirect:
    """The loss of redirection; see the module's docstring."""

    def __init__(self, problem: Problem) -> None:
        assert isinstance(problem.config.settings, RedirectSettings)
        self.problem, self.settings = problem, problem.config.settings
        is_solved_first = self.settings.init == "closed-form"
        self.closed_form = RedirectClosedForm(problem, ClosedFormSettings()) if is_solved_first else None
        sets = problem.sets
        # Earlier targets are redirected again. Only retained as they were found, they came back while all else was
        # pulled to the original: relearned 0.50 instead of 0.15 (docs/results/log_redirection.md, "twenty removals in
        # sequence").
        new, earlier = self._aimed(sets), self._aimed(sets.with_targets(sets.earlier, sets.earlier_partner))
        self.aimed = [a + b for a, b in zip(new, earlier, strict=True)]
        self.odds = _odds(len(new[0]), len(earlier[0]))
        everyone = sets.with_targets(sets.forget + sets.earlier, sets.partner + sets.earlier_partner)
        problem = self.problem = replace(problem, sets=everyone)
        self.original = LanguageModel(problem.original, problem.lm.tokenizer, problem.lm.name, problem.lm.device)
        # On modules of its own, which share the weights: parts run at the same time, and none may see another's hooks.
        self.retention = Retention(problem.beside())
        self.hook_point = problem.latents.hook_point
        self.blocks = block_names(problem)
        self.names = self._redirected_names()
        chosen, device = self._chosen_latents(), problem.lm.device
        std = torch.tensor(problem.latents.pre_act_std.max(0))[chosen].clamp_min(MIN_STD).float()
        self.chosen, self.std = chosen.to(device), std.to(device)
        self.guard = RelearnGuard(problem.beside(), self.settings)

    def prepare(self) -> None:
        """Solve for a few blocks in closed form, where the steps are to start from there; changes the model in place.

        Nothing read while building depends on it: aims and retention are those of the original model.
        """
        if self.closed_form is not None:
            self.closed_form.edit()

    @property
    def is_guarded(self) -> bool:
        """Tell whether the guard against relearning is on."""
        return self.settings.guard_weight > 0 and self.guard.can_part

    @property
    def fresh_every(self) -> int:
        """Return the number of batches after which the attacker starts again."""
        return self.settings.guard_steps if self.is_guarded else 1

    def carried(self) -> dict[str, Tensor]:
        """Return the attacker's state, for a checkpoint."""
        return self.guard.carried()

    def take_up(self, carried: Mapping[str, Tensor]) -> None:
        """Restore the attacker from a checkpoint."""
        self.guard.take_up(carried)

    def _aimed(self, sets: UnlearnSets) -> list[list[Pair]]:
        """Return the prompts about some targets, each paired with the same prompt about its unknown partner."""
        return aimed_prompts(
            self.problem.lm,
            sets,
            self.problem.templates,
            # Made-up names are the partners already: they are drawn where the sets are.
            aim="matched" if self.settings.aim == "made-up" else self.settings.aim,
            positions=self.settings.positions,
            with_answers=self.settings.answers,
            seed=self.problem.config.seed,
        )

    def _redirected_names(self) -> list[str]:
        """Return the hook points that are redirected; the SAE's is always among them."""
        first = {"all": 0, "from-hook": block_index(self.hook_point), "hook": self.problem.lm.n_blocks}
        names = self.blocks[max(0, first[self.settings.blocks]) :]
        return names if self.hook_point in names else [self.hook_point, *names]

    def _chosen_latents(self) -> Tensor:
        """Return the latents of the latent term."""
        selected = self.problem.latents.selected
        chosen = {
            "selected": selected["known"] + selected["unknown"],
            "all": list(range(self.problem.sae.d_sae)),
        }
        return torch.tensor(chosen[self.settings.which_latents], dtype=torch.long)

    def parts(self, step: int) -> list[Part]:
        """Return the parts of one step's loss; what is drawn at random is drawn here."""
        config, settings = self.problem.config, self.settings
        generator = rng("redirect.batch", config.seed, step)
        n_prompts = len(self.aimed[0])
        # All draws are made here, in one thread: the order in which parts run must not decide who gets which number.
        picked = generator.choice(n_prompts, size=min(config.batch_size, n_prompts), replace=False, p=self.odds)
        n_blocks = self.problem.lm.n_blocks
        put_back: PutBack | None = None
        if settings.erase_behind and n_blocks > 1:  # the embedding never changes: nothing to put back there
            # An early or middle block, never the last one: behind it there is nothing to compare.
            block = int(generator.integers(0, min(n_blocks // 2, n_blocks - 2) + 1))
            # By default wholly; going a share of the way did not help (docs/results/log_redirection.md, "erase behind
            # the key").
            share = 1 + settings.erase_spread * generator.uniform(-1, 1, len(picked))
            put_back = PutBack(block, torch.tensor(share, dtype=torch.float32))
        # The longest parts first, so that short ones fill the gap at the end.
        parts: list[Part] = [
            lambda: self._weighted(retain=self.retention.loss(step)),
            lambda: self._weighted(**self._moved(picked.tolist(), put_back)),
        ]
        if self.is_guarded and step % settings.guard_every == 0:
            parts.insert(1, lambda: self._weighted(guard=self.guard.loss(step, generator)))
        return parts

    def _weighted(self, **terms: Tensor) -> LossTerms:
        """Return the weighted sum of some terms."""
        settings = self.settings
        weights = {
            "latent": settings.latent_weight,
            "block": settings.block_weight,
            "output": settings.output_weight,
            "shift": settings.shift_weight,
            "erase": settings.erase_weight,
            # Where it is computed, the guard also counts for the steps in which it is left out.
            "guard": settings.guard_weight * settings.guard_every,
            "retain": self.problem.config.retain_weight,
        }
        total = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        return LossTerms(total, {name: value.detach() for name, value in terms.items()})

    def _moved(self, picked: Sequence[int], put_back: PutBack | None) -> dict[str, Tensor]:
        """Return the redirection terms, and the erase term where activations are patched in."""
        device = self.problem.lm.device
        drawn, packed = [[pairs[i] for i in picked] for pairs in self.aimed], self.retention.packed
        batches = [pair_batch(pairs, self.settings.positions, device, packed=packed) for pairs in drawn]
        aims, aim_logits = self._aims(batches)
        terms = self._redirection(batches[0], aims, aim_logits)
        if put_back is not None:
            terms["erase"] = self._erased(batches[0], aims, aim_logits, put_back)
        return terms

    def _aims(self, batches: Sequence[PairBatch]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the aims: for several unknown entities, their mean activations and mean probabilities."""
        found = [self._aim(batch) for batch in batches]
        if len(found) == 1:
            return found[0]
        acts = {name: torch.stack([own[name] for own, _ in found]).mean(0) for name in found[0][0]}
        # Not divided by their number: the softmax of the loss drops a constant.
        return acts, torch.stack([F.log_softmax(logits, dim=-1) for _, logits in found]).logsumexp(0)

    @torch.no_grad()
    def _aim(self, batch: PairBatch) -> tuple[dict[str, Tensor], Tensor]:
        """Return the unknown entities' activations at every block and logits, at the matching tokens."""
        # Of the original model. Aims read off the model as it is now drift along: text +1.15 % instead of +0.75 %
        # (docs/results/log_redirection.md, "balanced partners").
        names = list(dict.fromkeys([*self.blocks, self.hook_point]))
        with captured(self.problem.original, names) as found:
            logits = logits_at(self.problem.original, batch.other, batch.other_at)
        return {n: batch.other_at.of(found[n]).float() for n in names}, logits

    def _redirection(self, batch: PairBatch, aims: dict[str, Tensor], aim_logits: Tensor) -> dict[str, Tensor]:
        """Return the terms latent, block, output and shift."""
        with captured(self.problem.lm.model, self.names) as found:
            logits = logits_at(self.problem.lm.model, batch.own, batch.at)
        acts = {name: batch.at.of(found[name]).float() for name in self.names}
        goals = {name: aims[name] for name in self.names}
        if not self.settings.sae_error:
            # Without the SAE error the aim is what the unknown entity's latents alone decode to.
            goals[self.hook_point] = self.problem.sae(goals[self.hook_point])
        terms = {
            "latent": self._latent_term(acts[self.hook_point], aims[self.hook_point]),
            "block": self._distance(acts, goals),
            "output": next_token_kl(logits, aim_logits),
        }
        if self.settings.shift_weight > 0:
            terms["shift"] = self._shift(acts, goals, batch.at.of(batch.is_name))
        return terms

    def _shift(
        self, acts: dict[str, Tensor], aims: dict[str, Tensor], is_name: Bool[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        """Return the squared mean offset of a batch from its aims, which a linear classifier finds first."""
        # Name tokens and those behind apart: in one mean, opposite offsets would cancel.
        # Their numbers, found once: at a mask the host would wait for the device at every block.
        parts = [rows for where in (is_name, ~is_name) if len(rows := where.nonzero()[:, 0])]
        gaps = [
            (acts[n] - aims[n])[rows].mean(dim=0).square().sum() / self._variance(n, aims[n])
            for n in acts
            for rows in parts
        ]
        return torch.stack(gaps).mean()

    def _erased(
        self,
        batch: PairBatch,
        aims: dict[str, Tensor],
        aim_logits: Tensor,
        put_back: PutBack,
    ) -> Float[Tensor, ""]:
        """Return the erase term: the distance from the aims behind a block whose original activations are patched in.

        Args:
            batch: The pairs.
            aims: Activations of the unknown entities.
            aim_logits: Their logits.
            put_back: The block, and how far.
        """
        settings, lm = self.settings, self.problem.lm
        name, behind = self.blocks[put_back.block], self.blocks[put_back.block + 1 :]
        own = batch.own
        original = capture(self.original, own.ids, own.mask, [name], position_ids=own.positions)[name]
        # At all tokens by default: what redirected tokens behind the name write cannot hide what later blocks still
        # hold.
        where = batch.is_name if settings.erase_at == "name-tokens" else own.sequence >= 0
        weight = (where * put_back.share.to(lm.device)[own.sequence])[..., None]
        wholly = settings.erase_at == "all-tokens" and settings.erase_spread == 0

        def replace_them(acts: Tensor) -> Tensor:
            if wholly:  # the blocks before have no part in it: no gradient goes through them; padding is seen by nobody
                return original.to(acts.dtype)
            return torch.lerp(acts, original.to(acts.dtype), weight.to(acts.dtype))

        with replaced(lm.model, name, replace_them), captured(lm.model, behind) as found:
            logits = logits_at(lm.model, own, batch.at)
        acts = {n: batch.at.of(found[n]).float() for n in behind}
        output = next_token_kl(logits, aim_logits)
        return settings.block_weight * self._distance(acts, aims) + settings.output_weight * output

    def _distance(self, acts: dict[str, Tensor], aims: dict[str, Tensor]) -> Float[Tensor, ""]:
        """Return the mean over hook points of the squared distance in units of the hook point's variance."""
        gaps = [(acts[n] - aims[n]).square().sum(dim=1).mean() / self._variance(n, aims[n]) for n in acts]
        return torch.stack(gaps).mean()

    def _variance(self, name: str, aim: Float[Tensor, "n d_in"]) -> float | Tensor:
        """Return the variance of a block's activations; at another hook point that of the aims themselves."""
        known = self.retention.variance.get(name)
        return aim.var(dim=0).sum() if known is None else known

    def _latent_term(self, acts: Float[Tensor, "n d_in"], aim: Float[Tensor, "n d_in"]) -> Float[Tensor, ""]:
        """Return the distance of the chosen latents' pre-activations, in their standard deviations."""
        if len(self.chosen) == 0:
            return acts.new_zeros(())
        sae = self.problem.sae
        gap = (sae.pre_acts(acts.float()) - sae.pre_acts(aim.float()))[:, self.chosen] / self.std
        return F.huber_loss(gap, torch.zeros_like(gap))


def _odds(n_new: int, n_earlier: int) -> np.ndarray | None:
    """Return the chance of every prompt to be drawn: alike, but at least half of the draws for the new targets."""
    if n_earlier <= n_new:
        return None
    # Without this, a long chain of earlier removals would leave the new targets few draws.
    return np.repeat([0.5 / n_new, 0.5 / n_earlier], [n_new, n_earlier])
