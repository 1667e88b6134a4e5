"""Redirection: the target's activations move to where those of a paired unknown entity lie.

Method family after Yamashita et al. 2025 (arXiv:2509.15631), the loss derived from its abstract. With h the
activations of the model being trained, p those of the original model for the paired unknown entity in the same prompt:

    latent = mean_j huber((a_j(h) - a_j(p)) / s_j)   selected latents' pre-activations at the SAE's hook point
    block  = mean_l ||h_l - t_l||^2 / v_l            t_l = p_l; at the SAE's hook point, if asked, t = SAE(p), decoded
    output = KL(next token after p || next token after h)

Every term is bounded below by zero and has its minimum at the unknown entity; pre-activations and a decoded target
give a gradient to latents that are off, where TopK itself gives none.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sae_train.lm.generate import pad_right
from sae_train.lm.hook_names import block_index
from sae_train.lm.hooks import captured
from unlearn.data import Encoded, paired_prompts
from unlearn.finetune import LossTerms
from unlearn.problem import Problem
from unlearn.retention import Retention, block_names
from unlearn.settings import RedirectSettings

MIN_STD = 1e-3  # of a pre-activation, so that a constant one does not divide by zero


class Redirect:
    """The loss of redirection; see the module's docstring."""

    def __init__(self, problem: Problem) -> None:
        assert isinstance(problem.config.settings, RedirectSettings)
        self.problem, self.settings = problem, problem.config.settings
        self.pairs = paired_prompts(problem.lm, problem.sets, problem.templates)
        self.retention = Retention(problem)
        self.hook_point = problem.latents.hook_point
        self.names = self._redirected_names()
        chosen = problem.latents.selected["known"] + problem.latents.selected["unknown"]
        self.chosen = torch.tensor(chosen, dtype=torch.long)
        std = torch.tensor(problem.latents.pre_act_std.max(0))[self.chosen].clamp_min(MIN_STD).float()
        self.std = std.to(problem.lm.device)

    def _redirected_names(self) -> list[str]:
        """Return the hook points whose activations are moved; the SAE's is always among them."""
        first = {"all": 0, "from-hook": block_index(self.hook_point), "hook": self.problem.lm.n_blocks}
        names = block_names(self.problem)[max(0, first[self.settings.blocks]) :]
        return names if self.hook_point in names else [self.hook_point, *names]

    def loss(self, step: int) -> LossTerms:
        """Return the loss of one step."""
        config = self.problem.config
        generator = np.random.default_rng([0xCC, config.seed, step])
        picked = generator.choice(len(self.pairs), size=min(config.batch_size, len(self.pairs)), replace=False)
        terms = self._redirection([self.pairs[i] for i in picked])
        terms["retain"] = self.retention.loss(step)
        weights = {
            "latent": self.settings.latent_weight,
            "block": self.settings.block_weight,
            "output": self.settings.output_weight,
            "retain": config.retain_weight,
        }
        total = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        return LossTerms(total, {name: value.detach() for name, value in terms.items()})

    def _redirection(self, pairs: list[tuple[Encoded, Encoded]]) -> dict[str, Tensor]:
        """Return the terms that move the targets."""
        lm = self.problem.lm
        ids, mask = pad_right([own.ids for own, _ in pairs], device=lm.device)
        partner_ids, partner_mask = pad_right([other.ids for _, other in pairs], device=lm.device)
        with torch.no_grad(), captured(self.problem.reference, self.names) as aims:
            aim_logits = self.problem.reference(
                input_ids=partner_ids, attention_mask=partner_mask, use_cache=False
            ).logits
        with captured(lm.model, self.names) as found:
            logits = lm.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        at, partner_at = self._aligned(pairs)
        blocks = []
        for name in self.names:
            aim = aims[name][partner_at].float()
            if name == self.hook_point and not self.settings.sae_error:
                aim = self.problem.sae(aim)
            distance = (found[name][at].float() - aim).square().sum(dim=1).mean()
            blocks.append(distance / self.retention.variance.get(name, float(aim.var(dim=0).sum())))
        output = F.kl_div(
            F.log_softmax(logits[at].float(), dim=-1),
            F.log_softmax(aim_logits[partner_at].float(), dim=-1),
            log_target=True,
            reduction="batchmean",
        )
        latent = self._latent_term(found[self.hook_point][at], aims[self.hook_point][partner_at])
        return {"latent": latent, "block": torch.stack(blocks).mean(), "output": output}

    def _latent_term(self, acts: Float[Tensor, "n d_in"], aim: Float[Tensor, "n d_in"]) -> Float[Tensor, ""]:
        """Return the distance of the selected latents' pre-activations, in their standard deviations."""
        if len(self.chosen) == 0:
            return acts.new_zeros(())
        sae = self.problem.sae
        gap = (sae.pre_acts(acts.float()) - sae.pre_acts(aim.float()))[:, self.chosen] / self.std
        return F.huber_loss(gap, torch.zeros_like(gap))

    def _aligned(self, pairs: list[tuple[Encoded, Encoded]]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return (row, position) of matching tokens: the last name token and, if asked, those behind it."""
        own: list[tuple[int, int]] = []
        other: list[tuple[int, int]] = []
        for row, (a, b) in enumerate(pairs):
            tail = 1
            if self.settings.positions == "from-name-on" and a.ids[a.name_at + 1 :] == b.ids[b.name_at + 1 :]:
                tail = len(a.ids) - a.name_at
            own += [(row, a.name_at + i) for i in range(tail)]
            other += [(row, b.name_at + i) for i in range(tail)]
        return _columns(own), _columns(other)


def _columns(places: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Turn a list of (row, position) into two index tensors."""
    rows, positions = zip(*places, strict=True)
    return torch.tensor(rows), torch.tensor(positions)
