"""Training: resumed runs are the same run, failures keep what was good, planted directions are found."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sae_train.activations.store import ActivationStore
from sae_train.config import SaeTrainConfig
from sae_train.errors import ConfigError, FileFormatError, HookPointError, NumericalError, ShapeError
from sae_train.fields import default_of, from_mapping
from sae_train.lm.generate import text_loss
from sae_train.lm.models import load_lm
from sae_train.quality.evaluate import firing_rate, store_quality
from sae_train.quality.metrics import fvu
from sae_train.quality.splice import spliced_loss
from sae_train.renamed import RENAMED
from sae_train.run.checkpoints import CHECKPOINT, load_checkpoint
from sae_train.saes import ARCHS, build_sae
from sae_train.saes.base import Sae
from sae_train.saes.interop import WEIGHTS, load_sae
from sae_train.text.tokens import Document
from sae_train.text.windows import plan_windows
from sae_train.training import jobs as trainer
from sae_train.training.jobs import SaeJob, TrainState, lr_factor, train_jobs, train_one

torch.set_num_threads(1)
D_IN, N_DIRECTIONS = 32, 24


class _Stop(BaseException):
    """As a KeyboardInterrupt."""


def planted(n: int, seed: int = 11) -> tuple[torch.Tensor, torch.Tensor]:
    """Return n sums of three of 24 unit directions, and the directions: what a sparse autoencoder is for.

    The seed is not the trainer's: with the same one, its first random decoder rows are these directions.
    """
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(N_DIRECTIONS, D_IN, generator=generator), dim=1)
    on = torch.rand(n, N_DIRECTIONS, generator=generator).argsort(1) < 3
    strength = 1 + torch.rand(n, N_DIRECTIONS, generator=generator)
    return 5 * (on * strength) @ directions + 2, directions


@pytest.fixture
def store(make_store):
    with ActivationStore(make_store(planted(600)[0])) as opened:
        yield opened


def _config(**settings) -> SaeTrainConfig:
    defaults = {"k": 3, "d_sae": 48, "batch_size": 64, "tokens": 640, "lr": 3e-3, "lr_warmup_steps": 2}
    return SaeTrainConfig("layers.0", **{**defaults, "frac_holdout": 0.1, **settings})


def _stop_at(step: int):
    calls = iter(range(step - 1))

    def advance(_n=1, **_info):
        if next(calls, None) is None:
            raise _Stop

    return advance


# ------------------------------------------------------------------------------ resuming
@pytest.mark.parametrize("settings", [{"dead_after_tokens": 64, "d_sae": 128}, {"arch": "relu"}], ids=["topk", "relu"])
def test_five_steps_and_five_more_are_ten_bit_for_bit(store, tmp_path, settings):
    config = _config(save_every=5, **settings)
    straight = train_one(store, config, tmp_path / "straight", device="cpu")
    with pytest.raises(_Stop):
        train_one(store, config, tmp_path / "resumed", device="cpu", advance=_stop_at(8))
    assert load_checkpoint(tmp_path / "resumed", {})[1] == 5
    steps = []

    def told(n, *, earlier=0, **_info):
        steps.append((n, earlier))

    resumed = train_one(store, config, tmp_path / "resumed", device="cpu", resume=True, advance=told)
    assert steps == [(0, 5 * 64)] + [(64, 0)] * 5, "the steps of the first run count, but not in the rate"
    for name in (WEIGHTS, "cfg.json", "config.json"):
        assert (tmp_path / "straight" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes(), name
    assert {k: v for k, v in straight.items() if k != "tokens_per_s"} == {
        k: v for k, v in resumed.items() if k != "tokens_per_s"
    }
    assert not (tmp_path / "resumed" / CHECKPOINT).exists()
    last = json.loads((tmp_path / "straight" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 10 and last.get("auxk", 1) > 0  # latents were dead, or the comparison left them out
    other = train_one(store, replace(config, seed=1), tmp_path / "other", device="cpu")
    assert other["fvu"] != straight["fvu"]


def test_a_run_resumed_between_two_looks_at_the_dead_is_the_same(store, tmp_path, monkeypatch):
    """Who is dead was looked up at step 24; the checkpoint of step 25 has to know it, the step after it cannot tell."""
    config = _config(save_every=25, dead_after_tokens=64 * 16, d_sae=128, tokens=64 * 40)
    looks, real = [], TrainState.find_dead
    monkeypatch.setattr(TrainState, "find_dead", lambda state, n: looks.append(state.step) or real(state, n))
    train_one(store, config, tmp_path / "straight", device="cpu")
    assert looks == list(range(0, 40, 2))
    with pytest.raises(_Stop):
        train_one(store, config, tmp_path / "resumed", device="cpu", advance=_stop_at(28))
    assert load_checkpoint(tmp_path / "resumed", {})[0]["is_dead"].any()
    looks.clear()
    train_one(store, config, tmp_path / "resumed", device="cpu", resume=True)
    assert looks == list(range(26, 40, 2))
    assert (tmp_path / "straight" / WEIGHTS).read_bytes() == (tmp_path / "resumed" / WEIGHTS).read_bytes()


def test_the_search_is_not_chosen_again_at_resume(store, tmp_path, monkeypatch):
    """A timing decided; another one must not change the run."""
    config = _config(save_every=5, search_dtype="auto")
    monkeypatch.setattr("sae_train.saes.topk.best_dtype", lambda *_: "bfloat16")
    train_one(store, config, tmp_path / "straight", device="cpu")
    with pytest.raises(_Stop):
        train_one(store, config, tmp_path / "resumed", device="cpu", advance=_stop_at(8))
    monkeypatch.setattr("sae_train.saes.topk.best_dtype", lambda *_: "float32")
    train_one(store, config, tmp_path / "resumed", device="cpu", resume=True)
    record = json.loads((tmp_path / "resumed" / "run.json").read_text())
    assert record["plan"]["search_dtype"] == "bfloat16"
    assert (tmp_path / "straight" / WEIGHTS).read_bytes() == (tmp_path / "resumed" / WEIGHTS).read_bytes()


@pytest.mark.parametrize("change", [{"lr": 1e-3}, {"seed": 1}, {"k": 4}, {"tokens": 1280}, {"frac_holdout": 0.2}])
def test_a_changed_config_is_refused_at_resume(store, tmp_path, change):
    config = _config(save_every=2)
    with pytest.raises(_Stop):
        train_one(store, config, tmp_path / "a", device="cpu", advance=_stop_at(4))
    before = (tmp_path / "a" / CHECKPOINT).read_bytes(), (tmp_path / "a" / "config.json").read_bytes()
    with pytest.raises(ConfigError, match=f"{next(iter(change))} has changed"):
        train_one(store, replace(config, **change), tmp_path / "a", device="cpu", resume=True)
    assert before == ((tmp_path / "a" / CHECKPOINT).read_bytes(), (tmp_path / "a" / "config.json").read_bytes())
    train_one(store, replace(config, save_every=3, eval_every=4), tmp_path / "a", device="cpu", resume=True)


def _as_recorded_before(out: Path) -> None:
    """Give the fields of a run folder the names that an earlier version recorded."""
    old = {new: name for name, new in RENAMED.items()}
    config = json.loads((out / "config.json").read_text())
    assert old.keys() & config.keys()
    (out / "config.json").write_text(json.dumps({old.get(k, k): v for k, v in config.items()}))
    if (out / CHECKPOINT).exists():
        with safe_open(out / CHECKPOINT, framework="pt") as file:
            metadata = dict(file.metadata())
        for name, new in RENAMED.items():
            metadata["config"] = metadata["config"].replace(f'"{new}"', f'"{name}"')
        save_file(load_file(out / CHECKPOINT), out / CHECKPOINT, metadata=metadata)


def test_a_run_of_an_earlier_version_goes_on_and_its_result_is_found(store, tmp_path):
    config, out = _config(save_every=2), tmp_path / "a"
    straight = train_one(store, config, tmp_path / "straight", device="cpu")
    with pytest.raises(_Stop):
        train_one(store, config, out, device="cpu", advance=_stop_at(4))
    _as_recorded_before(out)
    assert train_one(store, config, out, device="cpu", resume=True)["fvu"] == straight["fvu"]
    _as_recorded_before(out)
    jobs = [SaeJob(config, out)]
    assert train_jobs(store, jobs, out.parent, device="cpu", resume=True)[0]["fvu"] == straight["fvu"], (
        "finished: read, not run"
    )
    with pytest.raises(ConfigError, match="frac_holdout"):
        train_jobs(store, [SaeJob(replace(config, frac_holdout=0.2), out)], out.parent, device="cpu", resume=True)


def test_another_store_is_refused_at_resume(store, make_store, tmp_path):
    with pytest.raises(_Stop):
        train_one(store, _config(save_every=2), tmp_path / "a", device="cpu", advance=_stop_at(4))
    with ActivationStore(make_store(planted(610)[0], name="b.h5")) as other, pytest.raises(ConfigError, match="store"):
        train_one(other, _config(save_every=2), tmp_path / "a", device="cpu", resume=True)


def test_a_damaged_checkpoint_is_refused(store, tmp_path):
    with pytest.raises(_Stop):
        train_one(store, _config(save_every=2), tmp_path / "a", device="cpu", advance=_stop_at(4))
    path = tmp_path / "a" / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FileFormatError, match=CHECKPOINT):
        train_one(store, _config(save_every=2), tmp_path / "a", device="cpu", resume=True)


def test_an_unfolded_checkpoint_cannot_be_loaded_as_an_sae(store, tmp_path):
    """A checkpoint is in the training scale. It has another name than weights, no cfg.json, and other tensors in it."""
    config, out = _config(save_every=5), tmp_path / "a"
    with pytest.raises(_Stop):
        train_one(store, config, out, device="cpu", advance=_stop_at(8))
    with pytest.raises(FileFormatError, match="not finished"):
        load_sae(out)
    checkpoint = (out / CHECKPOINT).read_bytes()
    train_one(store, config, out, device="cpu", resume=True)
    folded = load_file(out / WEIGHTS)
    (out / WEIGHTS).write_bytes(checkpoint)  # as somebody might "rescue" an interrupted run
    with pytest.raises(ShapeError, match="parameter.W_enc"):
        load_sae(out)
    unfolded = load_file(out / WEIGHTS)["parameter.b_dec"]
    assert unfolded.norm() > 1.1 * folded["b_dec"].norm() or unfolded.norm() < 0.9 * folded["b_dec"].norm()


def test_evaluating_on_the_way_changes_nothing(store, tmp_path):
    train_one(store, _config(), tmp_path / "a", device="cpu")
    train_one(store, _config(eval_every=3, save_every=1), tmp_path / "b", device="cpu")
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == (tmp_path / "b" / WEIGHTS).read_bytes()
    lines = [json.loads(line) for line in (tmp_path / "b" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line.get("split") == "heldout"] == [3, 6, 9]


# ------------------------------------------------------------------------------ failures
def _poison(monkeypatch, arch: str, step: int) -> None:
    """Make the loss NaN from a step on."""
    kind, calls = ARCHS[arch], iter(range(10**6))
    real = kind.training_loss

    def loss(self, acts, context):
        result = real(self, acts, context)
        return replace(result, loss=result.loss * math.nan) if next(calls) + 1 >= step else result

    monkeypatch.setattr(kind, "training_loss", loss)


@pytest.mark.parametrize("save_every", [4, 1])
def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(store, tmp_path, monkeypatch, save_every):
    """The losses are only looked at every 25 steps; a checkpoint in between must not be overwritten with NaN."""
    _poison(monkeypatch, "topk", 7)
    with pytest.raises(NumericalError, match="diverged"):
        train_one(store, _config(save_every=save_every, tokens=64 * 60), tmp_path / "a", device="cpu")
    tensors, step = load_checkpoint(tmp_path / "a", {})
    assert step == (4 if save_every == 4 else 6)
    assert all(bool(torch.isfinite(t).all()) for t in tensors.values())
    assert not (tmp_path / "a" / WEIGHTS).exists()


def test_nan_in_the_last_step_is_noticed(store, tmp_path, monkeypatch):
    _poison(monkeypatch, "relu", 10)
    with pytest.raises(NumericalError):
        train_one(store, _config(arch="relu", save_every=3), tmp_path / "a", device="cpu")
    assert load_checkpoint(tmp_path / "a", {})[1] == 9


def test_a_finite_loss_with_infinite_weights_is_not_saved(store, tmp_path, monkeypatch):
    real = Sae.normalize_decoder

    def broken(self):
        real(self)
        with torch.no_grad():
            self.b_dec[0] = math.inf

    monkeypatch.setattr(Sae, "normalize_decoder", broken)
    with pytest.raises(NumericalError, match="b_dec"):
        train_one(store, _config(tokens=64), tmp_path / "a", device="cpu")
    assert not (tmp_path / "a" / WEIGHTS).exists()


def test_unusable_inputs_are_refused(store, make_store, tmp_path):
    out = tmp_path / "a"
    with pytest.raises(ConfigError, match=r"\(k\)"):
        train_one(store, _config(k=49), out, device="cpu")
    with pytest.raises(ConfigError, match="arch"):
        train_one(store, _config(arch="gated"), out, device="cpu")
    for share in (0.001, 0.999):
        with pytest.raises(ConfigError, match="frac_holdout"):
            train_one(store, _config(frac_holdout=share), out, device="cpu")
    for value in (0.0, 0.1, 1234.5):
        constant = make_store(torch.full((200, D_IN), value), name=f"{value}.h5")
        with ActivationStore(constant) as flat, pytest.raises(NumericalError, match="vary"):
            train_one(flat, _config(), out, device="cpu")
    assert not out.exists()


def test_an_sae_of_another_width_is_refused(store):
    sae = build_sae("topk", D_IN + 1, 20, k=2)
    use = np.ones(600, dtype=bool)
    with pytest.raises(ShapeError, match=r"d_in = 33"):
        store_quality(sae, store, "layers.0", use)
    with pytest.raises(ShapeError, match=r"600|rows, 32"):
        firing_rate(sae, store, "layers.0", use, max_rows=10)
    with pytest.raises(HookPointError):
        store.hook_point("layers.1")


@pytest.mark.parametrize(
    "settings",
    [
        {"k": 0},
        {"expansion": 0},
        {"d_sae": 0},
        {"tokens": 0},
        {"batch_size": 0},
        {"lr": 0.0},
        {"lr": math.nan},
        {"lr_warmup_steps": -1},
        {"frac_lr_decay": 1.5},
        {"l1_coefficient": -1.0},
        {"frac_l1_warmup": -0.1},
        {"l0_coefficient": -1.0},
        {"jumprelu_bandwidth": 0.0},
        {"relu_p_end": 0.0},
        {"relu_p_end": 1.1},
        {"b_dec_init": "median"},
        {"auxk_alpha": -0.1},
        {"dead_after_tokens": 0},
        {"frac_holdout": 0.0},
        {"frac_holdout": 1.0},
        {"eval_every": -1},
        {"save_every": 0},
        {"search_dtype": "float16"},
        {"buffer_mb": 0},
    ],
)
def test_settings_out_of_range_name_their_field(settings):
    with pytest.raises(ConfigError) as caught:
        SaeTrainConfig("layers.0", **settings)
    ((name, value),) = settings.items()
    assert (caught.value.field, caught.value.got in (value, repr(value))) == (name, True)
    assert "--" not in str(caught.value), "flags are the command line's"


def test_configs_are_strict():
    assert from_mapping(SaeTrainConfig, {"hook_point": "embed", "k": 5}).k == 5
    with pytest.raises(ConfigError, match="batch_size"):
        from_mapping(SaeTrainConfig, {"hook_point": "embed", "batchsize": 5})
    assert default_of(SaeTrainConfig, "k") == SaeTrainConfig("embed").k


# ------------------------------------------------------------------------------ results
def test_the_run_folder_explains_itself(store, tmp_path):
    result = train_one(store, _config(tokens=1000), tmp_path / "a", device="cpu")
    assert (result["steps"], result["trained_tokens"], result["d_sae"]) == (16, 1024, 48)
    assert result["n_tokens"] == 60  # a tenth of sixty documents of ten rows
    assert json.loads((tmp_path / "a" / "metrics.json").read_text())["fvu"] == result["fvu"]
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert record["ended"] and record["plan"]["n_steps"] == 16 and record["plan"]["n_train_rows"] == 540
    assert json.loads((tmp_path / "a" / "config.json").read_text())["k"] == 3
    loaded = load_sae(tmp_path / "a")
    held = torch.from_numpy(store.holdout_rows(0.1, 0))
    rows = store.rows("layers.0", slice(0, 600))[held]
    assert result["fvu"] == pytest.approx(float(fvu(rows, loaded(rows))), rel=1e-5)  # in the model's own scale
    assert result["l0"] <= 3


def test_the_step_size_warms_up_and_decays():
    config = _config(lr_warmup_steps=4, frac_lr_decay=0.25)
    factors = [lr_factor(step, config, 20) for step in range(20)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1, 1] and factors[15:] == [1, 0.8, 0.6, 0.4, 0.2]
    constant = _config(lr_warmup_steps=0, frac_lr_decay=0.0)
    assert {lr_factor(step, constant, 20) for step in range(20)} == {1.0}


def _recovered(directions: torch.Tensor, folder: Path) -> float:
    """Share of the planted directions that some decoder row points along (cosine above 0.9)."""
    rows = load_file(folder / WEIGHTS)["W_dec"]
    return float(((directions @ rows.T).amax(1) > 0.9).float().mean())


@pytest.mark.parametrize("arch", ["topk", "relu"])
def test_planted_directions_are_found_and_not_in_shuffled_activations(make_store, tmp_path, arch):
    """The control has every coordinate's own distribution, and no directions: its columns are shuffled apart."""
    acts, directions = planted(3000)
    generator = torch.Generator().manual_seed(7)
    apart = torch.stack([column[torch.randperm(len(acts), generator=generator)] for column in acts.T], dim=1)
    config = _config(
        arch=arch, k=3, d_sae=48, tokens=256 * 300, batch_size=256, lr=1e-2, l1_coefficient=1.0, dead_after_tokens=2560
    )
    found, results = {}, {}
    for name, rows, n_tokens in (("found", acts, 256 * 300), ("control", apart, 256 * 300), ("untrained", acts, 1)):
        with ActivationStore(make_store(rows, name=f"{name}.h5", chunk_rows=500)) as opened:
            settings = replace(config, tokens=n_tokens, lr=config.lr if n_tokens > 1 else 1e-12)
            results[name] = train_one(opened, settings, tmp_path / name, device="cpu")
        found[name] = _recovered(directions, tmp_path / name)
    assert found["found"] > 0.8
    assert found["untrained"] < 0.2 and found["control"] < 0.4
    assert results["found"]["fvu"] < 0.15 < 0.3 < results["untrained"]["fvu"]
    assert results["found"]["fvu"] < results["control"]["fvu"] / 2


def test_firing_rates_count_rows_up_to_the_limit(store):
    sae = build_sae("relu", D_IN, 2, k=1)
    with torch.no_grad():
        sae.b_enc.copy_(torch.tensor([1.0, -1.0]))  # one latent always on, one never
        sae.W_enc[0, 1] = 1e-3
        sae.b_enc[1] = -1e-3 * float(store.rows("layers.0", slice(0, 100))[:, 0].median())
    use = np.arange(600) < 100
    rates = firing_rate(sae, store, "layers.0", use, max_rows=1000)
    assert rates.tolist() == pytest.approx([1.0, 0.5], abs=0.02)
    first = store.rows("layers.0", slice(0, 10)) @ sae.W_enc + sae.b_enc > 0
    assert firing_rate(sae, store, "layers.0", use, max_rows=10).tolist() == first.float().mean(0).tolist()


# ------------------------------------------------------------------------------ splicing
class _Edit(Sae):
    """Stands in for an SAE: returns its input times a number."""

    arch = "edit"

    def __init__(self, factor: float) -> None:
        super().__init__(32, 1)
        self.factor = factor

    def forward(self, acts):
        return acts * self.factor

    def activate(self, pre_acts):
        return pre_acts

    def training_loss(self, acts, context):
        raise NotImplementedError

    def saelens_config(self):
        return {}


def test_the_identity_recovers_everything_and_zero_nothing(tiny_llama_dir):
    lm = load_lm(str(tiny_llama_dir), device="cpu")
    texts = ["The city of Velmora lies on the river Ost.", "Mira Tolvan was born in Velmora and plays the lute."]
    plan = plan_windows(map(Document, texts), lm.tokenizer, ctx_len=32)
    identity = spliced_loss(lm, _Edit(1.0), "layers.0", plan, batch_size=1)
    zero = spliced_loss(lm, _Edit(0.0), "layers.0", plan)
    half = spliced_loss(lm, _Edit(-1.0), "layers.0", plan)
    assert identity.ce_recovered.value == 1 and identity.ce_sae == identity.ce_clean
    assert zero.ce_recovered.value == 0 and zero.ce_sae == zero.ce_zero
    assert zero.ce_zero != zero.ce_clean and half.ce_sae not in (half.ce_clean, half.ce_zero)
    windows = [plan.tokens[plan.window(i)].tolist() for i in range(plan.n_windows)]
    assert identity.ce_clean.value == pytest.approx(text_loss(lm, windows), abs=1e-5)


def test_the_prefix_keeps_its_own_activations(tiny_llama_dir, monkeypatch):
    lm, seen = load_lm(str(tiny_llama_dir), device="cpu"), []
    plan = plan_windows([Document("The city of Velmora")], lm.tokenizer, ctx_len=32)
    edit = _Edit(1.0)
    monkeypatch.setattr(edit, "forward", lambda acts: seen.append(acts.shape) or acts)
    spliced_loss(lm, edit, "embed", plan)
    assert seen == [(len(plan.tokens) - 1, 32)]
    assert trainer.LOG_EVERY > 1  # what makes the NaN tests above mean something
