"""PISCES: take the latents of the targets out of the vectors that the MLPs write with.

A column v of an MLP's output matrix is what one neuron adds to the residual stream. The SAE reads it without biases,
a_j = v W_enc[:, j], and latent j is taken out of those vectors that hold much of it,

    v <- v - (a_j + strength sign(a_j) m_j) W_dec[j]   where |a_j| > threshold m_j,   m_j = max over the matrix of |a_j|

for every latent j that stands out on the targets, found as in CRISP; what the SAE does not explain of v stays. Source:
Gur-Arieh et al. 2025, "Precise In-Parameter Concept Erasure in Large Language Models" (arXiv:2505.22586). There each
block has an SAE of its MLP's output and the latents are chosen by what they mean; here the one SAE of the run reads the
residual stream, to which all blocks up to its hook point write.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_train.errors import ConfigError
from sae_train.lm.hook_names import block_index
from sae_train.run.progress import Advance, no_advance
from unlearn.methods.crisp import target_latents
from unlearn.methods.forgetting import ActivationReader
from unlearn.methods.redirect_closed_form import add_to_matrix
from unlearn.problem.problem import Problem
from unlearn.settings.weight_edits import PiscesSettings


def taken_out(
    vectors: Float[Tensor, "d_model n"],
    encoder: Float[Tensor, "d_model n_latents"],
    decoder: Float[Tensor, "n_latents d_model"],
    *,
    threshold: float,
    strength: float,
) -> Float[Tensor, "d_model n"]:
    """Return what is to be added to the columns of a matrix so that the latents are taken out of them.

    Example:
        >>> one = torch.tensor([[1.0], [0.0]])
        >>> taken_out(torch.tensor([[4.0, 1.0], [7.0, 7.0]]), one, one.T, threshold=0.5, strength=0.25).tolist()
        [[-5.0, -0.0], [-0.0, -0.0]]
    """
    readings = encoder.T @ vectors
    most = readings.abs().amax(dim=1, keepdim=True)
    less = readings + strength * most * readings.sign()
    return -decoder.T @ (less * (readings.abs() > threshold * most))


class Pisces:
    """Writes the edit of PISCES."""

    has_full_size = True

    def __init__(self, problem: Problem) -> None:
        settings = problem.config.settings
        assert isinstance(settings, PiscesSettings)
        self.problem, self.settings = problem, settings
        self.blocks = self._chosen_blocks()
        self.matrices = problem.lm.architecture.straight_matrices(self.blocks)
        self.latents: Int[Tensor, " n_latents"] = target_latents(
            ActivationReader(problem), settings.n_latents, settings.ratio
        )[0]

    def _chosen_blocks(self) -> list[int]:
        """Return the blocks whose MLPs write to the SAE's hook point, the last ones if only some are to change.

        Raises:
            ConfigError: None does.
        """
        name = self.problem.latents.hook_point
        is_written = name.startswith("layers.") and not name.endswith(".self_attn")
        if not is_written:
            raise ConfigError(
                "no MLP writes to the SAE's hook point",
                got=name,
                field="hook_point",
                expected="the residual stream behind a block, or an MLP's output",
            )
        last, n = block_index(name), self.settings.n_blocks
        first = last if name.endswith(".mlp") else 0
        return list(range(first if n is None else max(first, last - n + 1), last + 1))

    @torch.no_grad()
    def edit(self, advance: Advance = no_advance) -> dict[str, float]:
        """Change the weights in place; return how many latents were taken out of how many vectors."""
        sae, model = self.problem.sae, self.problem.lm.model
        encoder, decoder = sae.W_enc[:, self.latents].float(), sae.W_dec[self.latents].float()
        n_vectors = 0
        for matrix in self.matrices:
            weight = model.get_parameter(f"{matrix.path}.weight").float()
            update = taken_out(
                weight.T if matrix.is_transposed else weight,
                encoder,
                decoder,
                threshold=self.settings.threshold,
                strength=self.settings.strength,
            )
            add_to_matrix(model, matrix, update)
            n_vectors += int((update != 0).any(dim=0).sum())
        return {"n_latents": float(len(self.latents)), "n_vectors": float(n_vectors)}
