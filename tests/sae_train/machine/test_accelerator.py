"""On a device all comes out as on the CPU, and a training step does not wait for it (`fixtures_accelerator.py`)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sae_train.activations.joined import joined_rows
from sae_train.activations.store import ActivationStore
from sae_train.config import SaeTrainConfig
from sae_train.run.processes import ALONE
from sae_train.saes import ARCHS, build_sae
from sae_train.saes.batch_topk import BatchTopKSae, keep_largest, keep_unseen
from sae_train.saes.paired.transcoder import TRANSCODERS
from sae_train.saes.topk import TopKSae
from sae_train.training.state import prepare
from sae_train.training.step import train_step

BATCH, STEPS = 64, 6
DEAD_AFTER = 16 * BATCH
SETTINGS = {"lr": 3e-3, "k": 3, "d_sae": 64, "batch_size": BATCH, "tokens": STEPS * BATCH, "frac_holdout": 0.1}


@pytest.fixture
def store(make_store):
    """Six hundred rows at two places."""
    rows, others = (torch.randn(600, 16, generator=torch.Generator().manual_seed(seed)) * 3 + 1 for seed in (2, 3))
    with ActivationStore(make_store(rows, also={"layers.0.mlp": rows.sin() + others})) as store:
        yield store


def steps_of(store, config: SaeTrainConfig, where: str, device=None):
    """Take all steps; return the tensors, the terms of the last loss, and where each step waited for the device."""
    rows = joined_rows(store, config.target_hook_point)
    state, plan = prepare(rows, config, np.ones(600, dtype=bool), torch.device(where))
    waits = []
    for step in range(STEPS):
        acts = rows.rows("layers.0", slice(step * BATCH, (step + 1) * BATCH)).to(where)
        if step % plan.dead_every == 0:
            state.tokens_since_fired[:10] += DEAD_AFTER  # dead, so that AuxK is in the loss
        if device is not None:
            device.waits.clear()
        terms = train_step(state, acts, config, plan)
        waits.append((step % plan.dead_every, list(device.waits) if device else []))
        assert len(state.dead) >= 10
    values = {**state.tensors(), **terms}
    return {name: value.detach().cpu() for name, value in values.items()}, waits


def agree(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-3, atol=1e-5, msg=lambda said, name=name: f"{name}: {said}"
        )


PARTS = {"accumulate": 2, "frequency_coefficient": 0.1, "max_frequency": 0.05}


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(
    "settings",
    [{}, PARTS, {"target_hook_point": "layers.0.mlp", "skip": True}],
    ids=["whole", "parts", "transcoder"],
)
def test_a_step_on_a_device_is_that_of_the_cpu_and_does_not_wait(arch, settings, store, request):
    assert set(TRANSCODERS) == set(ARCHS)
    revived = {"jumprelu_revival": "auxk"} if arch == "jumprelu" else {}
    config = SaeTrainConfig("layers.0", arch=arch, dead_after_tokens=DEAD_AFTER, **SETTINGS, **settings, **revived)
    expected, _ = steps_of(store, config, "cpu")
    found, waits = steps_of(store, config, "cuda", request.getfixturevalue("accelerator"))
    agree(found, expected)
    assert "auxk" not in found or found["auxk"] > 0
    assert {when for when, _ in waits} == {0, 1}  # dead latents are looked for at every other step
    for when, where in waits:
        assert len(where) == (1 if when == 0 else 0) and all("nonzero" in line for line in where), where


def test_a_tensor_made_on_the_host_inside_a_step_is_found(store, accelerator, monkeypatch):
    own = TopKSae.reconstruct

    def reconstruct(self, target, values, support, batch):
        return own(self, target + torch.zeros(target.shape[1]), values, support, batch)

    monkeypatch.setattr(TopKSae, "reconstruct", reconstruct)
    with pytest.raises(RuntimeError, match="found at least two devices, cuda:0 and cpu"):
        steps_of(store, SaeTrainConfig("layers.0", dead_after_tokens=DEAD_AFTER, **SETTINGS), "cuda", accelerator)


def test_a_value_that_the_host_reads_inside_a_step_is_found(store, accelerator, monkeypatch):
    own = TopKSae.reconstruct

    def reconstruct(self, target, values, support, batch):
        return own(self, target, values * (1.0 if values.sum().item() > 0 else 0.0), support, batch)

    monkeypatch.setattr(TopKSae, "reconstruct", reconstruct)
    config = SaeTrainConfig("layers.0", dead_after_tokens=DEAD_AFTER, **SETTINGS)
    _, waits = steps_of(store, config, "cuda", accelerator)
    assert all(any("values.sum().item()" in line for line in where) for _, where in waits)


@pytest.mark.parametrize("read", [
    lambda x: x.item(), bool, float, lambda x: x.tolist(), lambda x: x.cpu(), lambda x: x.to("cpu", non_blocking=True),
    lambda x: torch.ones(3, device=x.device).nonzero(), lambda x: torch.zeros(()).copy_(x),
    lambda x: torch.ones(3, device=x.device)[torch.ones(3, device=x.device) > 0],
    lambda x: torch.tensor(1.0, device=x.device),
])  # fmt: skip
def test_the_stand_in_counts_every_wait_once(read, accelerator):
    number = torch.zeros((), device="cuda")
    assert not accelerator.waits
    read(number)
    assert len(accelerator.waits) == 1


def test_the_stand_in_refuses_what_a_device_refuses(accelerator):
    ours, theirs = torch.ones(2, 2, device="cuda"), torch.ones(2, 2)
    place = torch.zeros(1, dtype=torch.int64, device="cuda")
    for mixed in (
        lambda: ours + theirs,
        lambda: ours @ theirs,
        lambda: torch.cat([ours, theirs]),
        lambda: theirs.add_(ours),
        lambda: theirs[place],
    ):
        with pytest.raises(RuntimeError, match="device"):
            mixed()
    with pytest.raises(TypeError, match="numpy"):
        ours.numpy()
    # What is none: numbers of the host, places of the host.
    assert (ours * torch.tensor(2.0)).sum().item() == 8 and ours[torch.tensor([0])].shape == (1, 2)


def test_a_copy_that_does_not_wait_arrives_with_its_event(accelerator):
    target, source = torch.zeros(2), torch.ones(2, device="cuda")
    target.copy_(source, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    source.zero_()  # later in the stream
    assert target.isnan().all() and not accelerator.waits
    event.synchronize()
    assert target.tolist() == [1, 1]


def test_a_choice_that_is_not_looked_at_is_the_same(make_acts):
    pre_acts = make_acts(40)[:, :10].float() - 0.4
    for n in (0, 1, 30, 399):
        seen, unseen = keep_largest(pre_acts, n), keep_unseen(pre_acts, n)
        on = unseen.values > 0
        assert len(unseen.values) == n and int(on.sum()) == len(seen.values)
        for found, expected in zip(unseen, seen, strict=True):
            torch.testing.assert_close(found[on], expected, rtol=0, atol=0)


def test_a_threshold_does_not_move_where_nothing_is_on():
    sae = build_sae("batch-topk", 4, 8, k=2)
    assert isinstance(sae, BatchTopKSae)
    with torch.no_grad():
        sae._update_threshold(torch.tensor([0.0, 3.0, 2.0]), ALONE)
        assert float(sae.threshold) == 2.0 and int(sae.n_batches) == 1
        for nothing in (torch.zeros(0), torch.zeros(3)):
            sae._update_threshold(nothing, ALONE)
    assert float(sae.threshold) == 2.0 and int(sae.n_batches) == 1
