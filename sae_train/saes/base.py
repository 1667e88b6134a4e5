"""What all SAEs share: parameters in SAELens' orientation, encode, decode, unit decoder rows, scale folding.

    pre_acts = (x - b_dec) W_enc + b_enc        latents = activation(pre_acts)        recon = latents W_dec + b_dec

Training sees inputs multiplied by `scale` (mean norm sqrt(d_in)); `fold_scale` returns to the model's own scale.

What it is trained on and measured by are rows. A row is an activation x, to be reconstructed; a transcoder's
(`paired/transcoder.py`) is two, x and what has to come out. `input_of` and `target_of` tell them apart.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sae_train.config import SaeTrainConfig
from sae_train.errors import ConfigError
from sae_train.rng import torch_rng
from sae_train.run.notebook import html_table
from sae_train.saes.losses.whole_batch import WholeBatch
from sae_train.saes.sparse_ops import dots_of_rows

if TYPE_CHECKING:
    from sae_train.run.outputs import Output

ROWS_IN_CACHE = 256  # of a weight matrix that is passed over more than once


@dataclass(frozen=True)
class StepContext:
    """What a loss may depend on, apart from the batch.

    Attributes:
        is_dead: Latents that have not fired for long, (d_sae,).
        progress: Share of the run that is over, 0 to 1.
        auxk_alpha: Weight of the dead-latent loss.
        l1_coefficient: Weight of the sparsity term at full strength.
        frac_l1_warmup: Share of the run in which the weight of a sparsity term grows.
        dead_latents: The same latents as `is_dead` by number, where the caller knows them.
        batch: What the rows are a part of; None where they are the whole batch.
        frequency_coefficient: Weight of the penalty on latents that fire often (`losses/frequency.py`).
        max_frequency: Share of rows above which a latent fires too often.
        step_share: Share of the run that one step is.
    """

    is_dead: Bool[Tensor, " d_sae"]
    progress: float
    auxk_alpha: float
    l1_coefficient: float
    frac_l1_warmup: float
    dead_latents: Int[Tensor, " n_dead"] | None = None
    batch: WholeBatch | None = None
    frequency_coefficient: float = 0.0
    max_frequency: float = 1.0
    step_share: float = 0.0

    def batch_of(self, target: Float[Tensor, "batch d_out"]) -> WholeBatch:
        """Return what the rows of this target are a part of."""
        return self.batch or WholeBatch.of(target)

    @property
    def dead(self) -> Int[Tensor, " n_dead"]:
        """Return the dead latents' numbers: a host sync where they were not given."""
        return self.is_dead.nonzero().flatten() if self.dead_latents is None else self.dead_latents

    @property
    def next_progress(self) -> float:
        """Return the share of the run that is over when the next step begins."""
        return min(1.0, self.progress + self.step_share)

    @property
    def warmup(self) -> float:
        """Return the share of its full weight that a sparsity term has now."""
        return min(1.0, self.progress / self.frac_l1_warmup) if self.frac_l1_warmup > 0 else 1.0


@dataclass(frozen=True)
class LossTerms:
    """What rows add to the loss of their batch and to its named parts (for the log), and which latents fired."""

    loss: Tensor
    terms: dict[str, Tensor]
    fired: Bool[Tensor, " d_sae"]

    def plus(self, name: str, weight: float, value: Tensor | None) -> LossTerms:
        """Return the same with a weighted term more; None adds nothing."""
        if value is None:
            return self
        return LossTerms(self.loss + weight * value, {**self.terms, name: value.detach()}, self.fired)


class Reconstruction(NamedTuple):
    """The reconstruction loss of a batch and its error.

    Attributes:
        loss: To be minimised, dimensionless.
        error: x - x_hat of all latents together, (batch, d_out).
        terms: Parts of the loss for the log.
    """

    loss: Tensor
    error: Tensor
    terms: dict[str, Tensor]


class Sae(nn.Module, ABC):
    """A sparse autoencoder: what is trained, and what comes back from a folder.

    Subclasses add the activation function and the training loss.

    Args:
        d_in: Width of the activations.
        d_sae: Number of latents.

    Attributes:
        d_out: Width of what it returns: d_in, but for a transcoder.
        hook_point: Where in the language model it reads, `layers.12`; empty if not given.
        target_hook_point: Where what it returns belongs, if not there: a transcoder's; else empty.
        sides: Widths of the models whose activations a row joins: of a crosscoder two, else one.
        folder: Where it lies; None as long as it is in memory only.
        cfg: Its `cfg.json` as SAELens reads it; empty before it is saved or loaded.
        metrics: What the station that made it reports, as `wb train-sae --json` prints it; empty where there is none.
        output: The claim on its folder, which goes away with the last SAE that holds it where nobody named a folder.
        arch: Its name on the command line.
        config_fields: Fields of `SaeTrainConfig` that its constructor takes, by the same names.
        saelens_sizes: Whole numbers in SAELens' `cfg.json` that its constructor takes, by the same names.
        search_dtype: In what training looks for the largest pre-activations, where the architecture has a choice.
        subtracts_b_dec: The encoder reads x - b_dec.
        scale_is_in_weights: Folding the scale changes matrices, not only biases.
    """

    arch: ClassVar[str]
    config_fields: ClassVar[tuple[str, ...]] = ()
    saelens_sizes: ClassVar[tuple[str, ...]] = ()
    search_dtype: str = "float32"
    subtracts_b_dec: ClassVar[bool] = True
    scale_is_in_weights: ClassVar[bool] = False

    def __init__(self, d_in: int, d_sae: int) -> None:
        super().__init__()
        self.d_in, self.d_sae, self.d_out = d_in, d_sae, d_in
        self.sides: tuple[int, ...] = (d_in,)
        self.hook_point = self.target_hook_point = ""
        self.folder: Path | None = None
        self.cfg: dict[str, Any] = {}
        self.metrics: dict[str, Any] = {}
        self.output: Output | None = None
        # Shape (d_in, d_sae), but a latent's numbers lie together, as in W_dec: sparse gradients come out that way.
        self.W_enc = nn.Parameter(torch.zeros(d_sae, d_in).T)
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.W_dec = nn.Parameter(torch.zeros(d_sae, d_in))
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    @classmethod
    def from_config(cls, config: SaeTrainConfig, d_in: int, d_sae: int, **sizes: int) -> Sae:
        """Build an SAE with zero weights, to be trained."""
        return cls(d_in, d_sae, **{name: getattr(config, name) for name in cls.config_fields}, **sizes)

    @classmethod
    def from_saelens(cls, cfg: dict[str, Any]) -> Sae:
        """Build an SAE with zero weights from a `cfg.json`, to be filled by `load_saelens_tensors`."""
        return cls(int(cfg["d_in"]), int(cfg["d_sae"]), **{name: int(cfg[name]) for name in cls.saelens_sizes})

    @staticmethod
    def load(source: str | Path, *, device: torch.device | str = "auto") -> Sae:
        """Read an SAE, in evaluation mode and without gradients.

        Args:
            source: An SAE folder, ours or SAELens', or `release:sae_id` of SAELens' list of published SAEs (Gemma
                Scope, Llama Scope, …), which SAELens fetches from the Hugging Face hub.
            device: Where the tensors live.

        Raises:
            MissingFileError: There is no such folder, or the release cannot be fetched.
            FileFormatError: It is no SAE that we can use.
            ConfigError: There is no such release, or no such SAE in it.
        """
        from sae_train.saes.importers import load_anywhere

        return load_anywhere(str(source), device=device)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write a folder that SAELens' `SAE.load_from_disk` and every command read; return it.

        The records of its training go with it. From now on this is where it lies.

        Raises:
            OutputExistsError: Something is there already, and it is not to be overwritten.
        """
        from sae_train.saes.interop import copy_sae

        return copy_sae(self, Path(folder), overwrite=overwrite)

    def to_saelens(self) -> Any:
        """Return the same SAE as an object of SAELens, on the same device."""
        from sae_train.saes.interop import saelens_sae

        return saelens_sae(self)

    @property
    def name(self) -> str:
        """Its folder's name, or where it reads as long as there is none."""
        return self.folder.name if self.folder is not None else self.hook_point

    def _repr_html_(self) -> str:
        """Show it in a notebook."""
        arch = self.cfg.get("metadata", {}).get("workbench_arch", self.arch)
        rows = {"hook point": self.hook_point, "architecture": arch, "d_in": self.d_in, "d_sae": self.d_sae}
        shown = {key: self.metrics[key] for key in ("fvu", "l0", "frac_dead", "n_tokens") if key in self.metrics}
        return html_table(f"SAE {self.name}", {**rows, **shown, "folder": self.folder})

    @property
    def d_row(self) -> int:
        """Return the width of the rows it is trained on and measured by."""
        return self.d_in

    def input_of(self, rows: Float[Tensor, "*tokens d_row"]) -> Float[Tensor, "*tokens d_in"]:
        """Return the part of rows that is encoded."""
        return rows

    def target_of(self, rows: Float[Tensor, "*tokens d_row"]) -> Float[Tensor, "*tokens d_out"]:
        """Return the part of rows that has to come out."""
        return rows

    def encoder_rows(self, rows: Float[Tensor, "batch d_row"]) -> Float[Tensor, "batch d_in"]:
        """Return what a step multiplies by W_enc, without gradient: x - b_dec."""
        return rows - self.b_dec.detach()

    def decoder_rows(
        self, rows: Float[Tensor, "batch d_row"], encoded: Float[Tensor, "batch d_in"]
    ) -> Float[Tensor, "batch d_out"]:
        """Return what the latents of a step have to add up to: the target minus b_dec, without b_dec's gradient.

        Here it is `encoded`, what `encoder_rows` returned.
        """
        return encoded

    @property
    def encoder_b_dec(self) -> Tensor | None:
        """Return b_dec where the encoder subtracts it, so that it has a gradient there; else None."""
        return self.b_dec

    def dead_bias(self, dead: Int[Tensor, " n_dead"], W_enc: Float[Tensor, "n_dead d_in"]) -> Float[Tensor, " n_dead"]:
        """Return the bias of dead latents, given their encoder columns, with the gradient that b_dec has through x."""
        # Zero, and that gradient: a product with a vector, not one for every row.
        return self.b_enc[dead] + W_enc.detach() @ (self.b_dec.detach() - self.b_dec)

    @torch.no_grad()
    def init_weights(self, center: Float[Tensor, " d_out"], seed: int) -> None:
        """Draw unit decoder rows, tie the encoder to them once, and set `b_dec` (Gao et al. 2024, App. A.1)."""
        generator = torch_rng("sae.directions", seed)
        # A crosscoder's latents begin with one direction on all sides: what tells the sides apart is then learned.
        directions = torch.randn(self.d_sae, self.sides[0], generator=generator).repeat(1, len(self.sides))
        self.W_dec.copy_(directions / directions.norm(dim=1, keepdim=True))
        self.W_enc.copy_(self.W_dec.T)
        self.b_dec.copy_(center)

    def init_inputs(self, rows: Float[Tensor, "batch d_row"]) -> None:  # noqa: B027  most have nothing to do
        """Choose how inputs are measured, where that is not the targets' way, on a sample of scaled rows."""

    def init_thresholds(self, rows: Float[Tensor, "batch d_row"]) -> None:  # noqa: B027  most have none
        """Choose thresholds, where there are any, on a sample of scaled rows."""

    def choose_search_dtype(self, rows: Float[Tensor, "batch d_row"], wanted: str) -> None:  # noqa: B027  as above
        """Set `search_dtype` to what is wanted, or (`auto`) to what is best on a sample of scaled rows."""

    def pre_acts(self, acts: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens d_sae"]:
        """Return the latents before the activation function."""
        return self.centered_pre_acts(acts - self.b_dec)

    def centered_pre_acts(self, centered: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens d_sae"]:
        """Return the latents before the activation function, given x - b_dec; autocast concerns the product only."""
        if centered.ndim != 2:  # addmm takes rows; the same rows give the same numbers, whatever their leading axes
            return self.centered_pre_acts(centered.reshape(-1, self.d_in)).view(*centered.shape[:-1], self.d_sae)
        return torch.addmm(self.b_enc, centered, self.W_enc).to(centered.dtype)

    @abstractmethod
    def activate(self, pre_acts: Float[Tensor, "*tokens d_sae"]) -> Float[Tensor, "*tokens d_sae"]:
        """Apply the activation function."""

    @abstractmethod
    def training_loss(self, acts: Float[Tensor, "batch d_row"], context: StepContext) -> LossTerms:
        """Return what some scaled rows add to the loss of their batch (see `context.batch`)."""

    def after_step(self, context: StepContext, terms: dict[str, Tensor]) -> None:  # noqa: B027  most have nothing to do
        """Change what a loss depends on from step to step, given this process's terms of all micro batches."""

    @abstractmethod
    def saelens_config(self) -> dict[str, Any]:
        """Return the part of SAELens' `cfg.json` that this architecture decides."""

    def saelens_tensors(self) -> dict[str, Tensor]:
        """Return the tensors of SAELens' `sae_weights.safetensors`, by its names."""
        return {name: getattr(self, name).detach() for name in ("W_enc", "b_enc", "W_dec", "b_dec")}

    @torch.no_grad()
    def load_saelens_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Copy tensors of the names and shapes of `saelens_tensors` in."""
        for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
            getattr(self, name).copy_(tensors[name])

    def encode(self, acts: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens d_sae"]:
        """Return the latents of activations in the model's own scale; leading axes (batch, position) are free."""
        return self.activate(self.pre_acts(acts))

    def decode(self, latents: Float[Tensor, "*tokens d_sae"]) -> Float[Tensor, "*tokens d_out"]:
        """Return the reconstruction that these latents stand for."""
        return latents @ self.W_dec + self.b_dec

    def recon_of(
        self, acts: Float[Tensor, "*tokens d_in"], latents: Float[Tensor, "*tokens d_sae"]
    ) -> Float[Tensor, "*tokens d_out"]:
        """Return what `forward` does, given the latents of these activations."""
        return self.decode(latents)

    def forward(self, acts: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens d_out"]:
        """Return the reconstruction."""
        return self.recon_of(acts, self.encode(acts))

    @torch.no_grad()
    def project_decoder_gradient(self) -> None:
        """Remove from the decoder's gradient what would change the length of its rows."""
        grad = self.W_dec.grad
        if grad is not None:
            n_rows = self._rows_at_a_time
            for part, rows in zip(grad.split(n_rows), self.W_dec.split(n_rows), strict=True):
                part.addcmul_(rows, dots_of_rows(part, rows).unsqueeze(1), value=-1)

    @torch.no_grad()
    def normalize_decoder(self) -> None:
        """Bring every decoder row back to length one."""
        for rows in self.W_dec.split(self._rows_at_a_time):
            rows /= torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min_(1e-8)

    @property
    def _rows_at_a_time(self) -> int:
        """Return how many decoder rows to pass over more than once while they are in the cache."""
        return ROWS_IN_CACHE if self.W_dec.device.type == "cpu" else self.d_sae

    @torch.no_grad()
    def fold_scale(self, scale: float) -> None:
        """Turn an SAE of `scale * x` into the same SAE of `x`, decoder rows still of length one.

        With latents measured in the model's own scale only the biases change: b_enc / scale, b_dec / scale.
        """
        self.b_enc /= scale
        self.b_dec /= scale

    @torch.no_grad()
    def unfold_scale(self, scale: float) -> None:
        """Turn an SAE of `x` into the same SAE of `scale * x`: the way back from `fold_scale`."""
        self.fold_scale(1 / scale)

    def take_thresholds(self, thresholds: Float[Tensor, " d_sae"]) -> None:  # noqa: B027  most have none
        """Go on from these thresholds, in the scale of training, where there are any."""


def require_autoencoder(sae: Sae, use: str) -> Sae:
    """Return an SAE whose latents write where they read.

    Args:
        sae: The SAE.
        use: What needs that, for the message.

    Raises:
        ConfigError: It is a transcoder or a crosscoder.
    """
    if sae.target_hook_point or len(sae.sides) > 1:
        kind = f"transcoder from {sae.hook_point} to {sae.target_hook_point}"
        raise ConfigError(
            f"{use} needs latents that write where they read",
            got=f"a {kind if sae.target_hook_point else f'crosscoder of two models at {sae.hook_point}'}",
            field="sae",
            expected="an SAE of one place",
        )
    return sae


def as_sae(sae: Sae | str | Path, *, device: torch.device | str = "auto") -> Sae:
    """Return an SAE that is at hand, or load it; `device` concerns one that is loaded."""
    return sae if isinstance(sae, Sae) else Sae.load(sae, device=device)
