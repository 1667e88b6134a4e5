"""The stations of the ground floor on a stand-in of a CUDA device: what they write and measure is the CPU's."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sae_train import cache_activations, compare_saes, eval_sae, load_lm, train_sae
from sae_train.activations.store import ActivationStore
from sae_train.saes.interop import WEIGHTS

TEXTS = [f"The city of Velmora lies on the river Ost. {'Its harbour is old. ' * (n % 5)}Number {n}." for n in range(12)]
PLACES = ["layers.0", "layers.1.mlp"]
STATIONS = ("stored", "trained", "measured", "spliced", "compared")


@pytest.fixture
def thread(tiny_llama_dir, tmp_path: Path):
    """Return a function that goes through all stations on a device; what each of them gave."""
    loaded = load_lm(str(tiny_llama_dir), device="cpu")

    def run(where: str) -> dict[str, torch.Tensor]:
        out = tmp_path / where
        lm = replace(loaded, model=deepcopy(loaded.model).to(where), device=torch.device(where))
        cache_activations(lm, TEXTS, PLACES, out=out / "acts.h5", ctx_len=32, batch_size=4, dtype="float32")
        sizes = {"k": 3, "d_sae": 64, "batch_size": 64, "tokens": 640, "device": where}
        saes = [train_sae(out / "acts.h5", "layers.0", out=out / f"sae-{s}", seed=s, **sizes) for s in (0, 1)]
        measured = eval_sae(saes[0], out / "acts.h5", lm=lm, text=TEXTS, device=where)
        compared = compare_saes(*saes, store=out / "acts.h5", device=where)
        with ActivationStore(out / "acts.h5") as store:
            found = {f"stored {name}": store.rows(name, slice(0, store.n_rows)) for name in PLACES}
        found |= {f"trained {name}": value for name, value in load_file(out / "sae-0" / WEIGHTS).items()}
        assert measured.spliced is not None
        found |= {"measured": torch.tensor([measured.quality.fvu.value, measured.quality.l0.value])}
        found |= {"spliced": torch.tensor([measured.spliced.ce_clean.value, measured.spliced.ce_sae.value])}
        return found | {"compared": torch.from_numpy(compared.rate_a)}

    return run


@pytest.mark.slow
def test_from_the_model_to_the_measured_sae(thread, request):
    expected = thread("cpu")
    device = request.getfixturevalue("accelerator")
    found = thread("cuda")
    assert set(found) == set(expected) and {name.split()[0] for name in found} == set(STATIONS)
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-3, atol=1e-5, msg=lambda said, name=name: f"{name}: {said}"
        )
    assert device.waits  # it was there
