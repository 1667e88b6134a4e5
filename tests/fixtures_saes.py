"""Fixtures of the SAE tests: small SAEs in double precision, steps, planted directions. Registered by conftest.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

D_IN, D_SAE, K = 12, 40, 4


@pytest.fixture
def make_sae():
    """Return a function that builds an SAE with nothing zero and nothing tied, in float64: 12 inputs, 40 latents."""
    import torch

    from sae_train.saes import build_sae

    def build(arch: str, seed: int = 0, **settings):
        generator = torch.Generator().manual_seed(seed + 1)
        sae = build_sae(arch, D_IN, D_SAE, **{"k": K, **settings})
        sae.init_weights(torch.full((D_IN,), 0.5), seed)
        sae.double()
        with torch.no_grad():
            sae.W_enc += 0.3 * torch.randn(D_IN, D_SAE, generator=generator, dtype=torch.float64)
            sae.b_enc += 0.1 * torch.randn(D_SAE, generator=generator, dtype=torch.float64)
        return sae

    return build


@pytest.fixture
def make_acts():
    """Return a function that draws activations of width 12 in float64."""
    import torch

    def draw(n: int = 64, seed: int = 0):
        return torch.randn(n, D_IN, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5

    return draw


@pytest.fixture
def make_context():
    """Return a function that describes a step; nothing is dead and the warm-up is over unless said otherwise."""
    import torch

    from sae_train.saes.base import StepContext

    def build(**settings):
        defaults = {"is_dead": torch.zeros(D_SAE, dtype=torch.bool), "progress": 1.0, "auxk_alpha": 1 / 32}
        return StepContext(**{**defaults, "l1_coefficient": 5.0, "frac_l1_warmup": 0.05, **settings})

    return build


@pytest.fixture
def saelens_agrees(tmp_path: Path):
    """Return a function that saves an SAE, reads it with SAELens and with us, and compares what comes out."""
    import torch
    from sae_lens import SAE

    from sae_train.saes.interop import load_sae, save_sae

    def check(sae, acts):
        """Assert equal latents and reconstructions of float32 activations; return what load_sae found."""
        save_sae(sae, tmp_path / "sae", hook_point="layers.3", metadata={"model_name": "toy"})
        theirs, ours = SAE.load_from_disk(str(tmp_path / "sae"), device="cpu"), load_sae(tmp_path / "sae")
        with torch.no_grad():
            latents = ours.encode(acts)
            torch.testing.assert_close(theirs.encode(acts), latents, rtol=0, atol=0)
            torch.testing.assert_close(theirs(acts), ours(acts), rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(latents, sae.encode(acts), rtol=0, atol=0)
            torch.testing.assert_close(ours(acts), sae(acts), rtol=0, atol=0)
        assert 0 < (latents != 0).float().mean() < 0.5  # the thresholds cut something, or all would agree
        return ours

    return check


class _Stop(BaseException):
    """As a KeyboardInterrupt."""


@pytest.fixture
def resumes_exactly(make_store, tmp_path: Path):
    """Return a function that trains ten steps in one go and in two, and compares every byte."""
    import torch

    from sae_train.activations.store import ActivationStore
    from sae_train.config import SaeTrainConfig
    from sae_train.run.checkpoints import load_checkpoint
    from sae_train.saes.interop import WEIGHTS
    from sae_train.training.jobs import train_one

    def check(arch: str, *in_checkpoint: str, **settings) -> None:
        rows = torch.randn(600, 32, generator=torch.Generator().manual_seed(2)) * 3 + 1
        sizes = {"k": 3, "d_sae": 64, "batch_size": 64, "tokens": 640, "frac_holdout": 0.1}
        config = SaeTrainConfig("layers.0", arch=arch, lr=3e-3, dead_after_tokens=64, save_every=5, **sizes, **settings)
        steps = iter(range(7))

        def stop(_n=1, **_info):
            if next(steps, None) is None:
                raise _Stop

        with ActivationStore(make_store(rows)) as store:
            train_one(store, config, tmp_path / "straight", device="cpu")
            # Another way to evaluate and save on the way must change nothing either.
            train_one(store, replace(config, eval_every=3), tmp_path / "looked-at", device="cpu")
            with pytest.raises(_Stop):
                train_one(store, config, tmp_path / "resumed", device="cpu", advance=stop)
            tensors, step = load_checkpoint(tmp_path / "resumed", {})
            assert step == 5 and {f"parameter.{name}" for name in in_checkpoint} <= set(tensors)
            train_one(store, config, tmp_path / "resumed", device="cpu", resume=True)
        expected = (tmp_path / "straight" / WEIGHTS).read_bytes()
        assert (tmp_path / "resumed" / WEIGHTS).read_bytes() == expected
        assert (tmp_path / "looked-at" / WEIGHTS).read_bytes() == expected

    return check


@pytest.fixture
def planted_and_shuffled(make_store, tmp_path: Path):
    """Return a function that trains on sums of three of 24 directions, and on the same columns shuffled apart.

    It returns, for `found`, `control` and `untrained`, the share of directions that a decoder row points along (cosine
    above 0.9) and the result of the training.
    """
    import torch
    from safetensors.torch import load_file

    from sae_train.activations.store import ActivationStore
    from sae_train.config import SaeTrainConfig
    from sae_train.saes.interop import WEIGHTS
    from sae_train.training.jobs import train_one

    def train(arch: str, *, steps: int = 300, **settings):
        generator = torch.Generator().manual_seed(11)  # not the trainer's seed, which draws the first decoder rows
        directions = torch.nn.functional.normalize(torch.randn(24, 32, generator=generator), dim=1)
        on = torch.rand(3000, 24, generator=generator).argsort(1) < 3
        acts = 5 * (on * (1 + torch.rand(3000, 24, generator=generator))) @ directions + 2
        apart = torch.stack([column[torch.randperm(3000, generator=generator)] for column in acts.T], dim=1)
        sizes = {"k": 3, "d_sae": 48, "batch_size": 256, "dead_after_tokens": 2560}
        config = SaeTrainConfig("layers.0", arch=arch, **{**sizes, "lr": 1e-2, "tokens": 256 * steps, **settings})
        found = {}
        for name, rows in {"found": acts, "control": apart, "untrained": acts}.items():
            still = {"tokens": 1, "lr": 1e-12} if name == "untrained" else {}
            with ActivationStore(make_store(rows, name=f"{name}.h5", chunk_rows=500)) as store:
                result = train_one(store, replace(config, **still), tmp_path / name, device="cpu")
            cosines = directions @ load_file(tmp_path / name / WEIGHTS)["W_dec"].T
            found[name] = {**result, "recovered": float((cosines.amax(1) > 0.9).float().mean())}
        return found

    return train
