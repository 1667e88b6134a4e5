"""SAE quality: intervals over documents, KL, density; SAELens' own evaluation of the same folder agrees."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sae_train.activations.store import ActivationStore
from sae_train.errors import ShapeError
from sae_train.intervals import Interval, flat
from sae_train.lm.hooks import capture, replaced
from sae_train.lm.models import load_lm
from sae_train.quality import bootstrap
from sae_train.quality.bootstrap import absent_interval, document_groups, draw_counts, percentile_interval
from sae_train.quality.evaluate import store_quality
from sae_train.quality.metrics import VarianceSums, density_histogram, fvu, kl_divergence
from sae_train.quality.splice import heldout_documents, spliced_loss
from sae_train.saes import build_sae
from sae_train.saes.interop import load_sae, save_sae
from sae_train.text.tokens import Document
from sae_train.text.windows import plan_windows

pytestmark = pytest.mark.xdist_group("sae_lens")  # one process imports it, which takes seconds

torch.set_num_threads(1)
D_IN, D_SAE = 32, 48


def _random_sae():
    sae = build_sae("topk", D_IN, D_SAE, k=6)
    sae.init_weights(torch.zeros(D_IN), 0)
    return sae.requires_grad_(False).eval()


def _rows(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, D_IN, generator=torch.Generator().manual_seed(seed)) * 2 + 1


# ------------------------------------------------------------------------------ the bootstrap
def test_a_replicate_is_the_figure_of_the_resampled_documents():
    """Documents 0, 0, 2 drawn from three: the same number as from their rows laid end to end."""
    x, y = _rows(30), _rows(30, seed=1)
    groups = torch.tensor([0] * 5 + [1] * 10 + [2] * 15)
    sums = VarianceSums(D_IN, 3)
    for part in (slice(0, 12), slice(12, 30)):
        sums.update(x[part], y[part], groups[part])
    found = sums.sums().weighted(np.array([[2.0, 0, 1], [1, 1, 1]]))
    drawn = torch.cat([torch.arange(5), torch.arange(5), torch.arange(15, 30)])
    assert found.fvu() == pytest.approx([float(fvu(x[drawn], y[drawn])), float(fvu(x, y))], rel=1e-6)
    assert found.l2_ratio()[0] == pytest.approx(float(y[drawn].norm() / x[drawn].norm()), rel=1e-6)


def test_documents_not_tokens_are_resampled(make_store):
    """Each document is one row repeated 25 times: 40 rows' worth of knowledge, whatever the number of tokens.

    Control: the same rows as 1,000 documents of one row have an interval about sqrt(25) = 5 times narrower.
    """
    rows = _rows(40).repeat_interleave(25, dim=0)
    widths = {}
    for name, doc_id in {"documents": np.arange(1000) // 25, "tokens": np.arange(1000)}.items():
        with ActivationStore(make_store(rows, doc_id, name=f"{name}.h5")) as store:
            found = store_quality(_random_sae(), store, "layers.0", np.ones(1000, dtype=bool))
        assert all(one.low < one.value < one.high for one in (found.fvu, found.l2_ratio))
        assert all(one.low <= one.value <= one.high for one in (found.l0, found.frac_dead))
        widths[name] = found.fvu.high - found.fvu.low
    assert 4 < widths["documents"] / widths["tokens"] < 6.2


@pytest.mark.slow
def test_intervals_cover():
    """Means of 30 documents of unequal length: about 95 % of the intervals hold the true mean, 93 % in theory."""
    generator, hits = np.random.default_rng(0), 0
    for trial in range(400):
        lengths = generator.integers(1, 6, size=30)
        values = lengths * generator.normal(1.0, 1.0, size=30)  # sums: all tokens of a document alike
        draws = draw_counts(30, seed=trial)
        found = percentile_interval(values.sum() / lengths.sum(), draws @ values / (draws @ lengths), 30)
        hits += found.low <= 1.0 <= found.high
    assert 0.89 < hits / 400 < 0.97


def test_a_single_document_has_no_interval(make_store):
    with ActivationStore(make_store(_rows(50), np.zeros(50))) as store:
        found = store_quality(_random_sae(), store, "layers.0", np.ones(50, dtype=bool))
    assert math.isnan(found.fvu.low) and math.isnan(found.frac_dead.high) and found.n_documents == 1
    assert found.fvu.value > 0 and found.frac_dead.value >= 0


def test_many_documents_share_groups(monkeypatch):
    monkeypatch.setattr(bootstrap, "MAX_GROUPS", 10)
    groups = document_groups(np.repeat(np.arange(100, 125), 3))
    assert (groups.n, groups.n_documents) == (10, 25)
    assert all(len(set(groups.of_row[i : i + 3])) == 1 for i in range(0, 75, 3)), "documents stay whole"
    assert np.bincount(groups.of_row).min() >= 6


def test_the_interval_of_the_dead_share_has_the_spread_of_resampling():
    """Of 200 columns 100 are never there and 100 are in one of 50 groups each.

    A draw of 50 groups misses one of those with probability (1 - 1/50)^50 = 0.364: the replicates vary around
    (100 + 36.4) / 200, and are moved back to 0.5.
    """
    present = np.zeros((50, 200), dtype=bool)
    present[np.arange(100) % 50, np.arange(100)] = True
    draws = draw_counts(50)
    misses = ((draws == 0)[:, np.arange(100) % 50]).sum(1)
    assert misses.mean() == pytest.approx(36.4, abs=0.5)
    found = absent_interval(present, draws)
    assert found.low < found.value == 0.5 < found.high
    assert found.high - found.low == pytest.approx(np.subtract(*np.quantile(misses / 200, [0.975, 0.025])), abs=1e-6)
    present[:] = True
    assert absent_interval(present, draws) == Interval(0.0, 0.0, 0.0)


def test_density_counts_latents_by_decades():
    # of 1,000 tokens: 1 -> -3, 9 -> -2.05, 10 -> -2, 1000 -> 0 (the last bin holds its right border)
    found = density_histogram(torch.tensor([0, 0, 1, 9, 10, 1000]), 1000)
    assert found.log10_edges[0] == -3 and found.log10_edges[-1] == 0 and len(found.n_latents) == 12
    assert [i for i, n in enumerate(found.n_latents) if n] == [0, 3, 4, 11] and found.n_never == 2


# ------------------------------------------------------------------------------ spliced into a model
@pytest.fixture
def lm(tiny_llama_dir):
    return load_lm(str(tiny_llama_dir), device="cpu")


TEXTS = ("The city of Velmora lies on the river Ost.", "Mira Tolvan plays the lute.", "A quiet street, a market.") * 4


def test_kl_is_that_of_the_predictions_and_zero_for_the_identity(lm):
    plan = plan_windows(map(Document, TEXTS), lm.tokenizer, ctx_len=32)
    sae = _random_sae()
    found = spliced_loss(lm, sae, "layers.0", plan)
    clean, spliced = [], []
    for window in range(plan.n_windows):
        ids = torch.tensor(plan.tokens[plan.window(window)])[None].long()
        with torch.no_grad():
            clean.append(lm.model(input_ids=ids).logits[0, :-1].log_softmax(-1))
            with replaced(lm.model, "layers.0", lambda a: torch.cat([a[:, :1], sae(a[0, 1:])[None]], dim=1)):
                spliced.append(lm.model(input_ids=ids).logits[0, :-1].log_softmax(-1))
    expected = F.kl_div(torch.cat(spliced), torch.cat(clean), log_target=True, reduction="batchmean")
    assert found.kl.value == pytest.approx(float(expected), rel=1e-4) and found.kl.value > 1e-3
    assert all(one.low < one.value < one.high for one in (found.kl, found.ce_sae))
    assert (found.n_texts, found.n_predicted) == (12, len(plan.tokens) - plan.n_windows)
    back = torch.cat(
        [F.kl_div(c, s, log_target=True, reduction="none").sum(-1) for c, s in zip(clean, spliced, strict=True)]
    )
    assert abs(float(back.mean()) - found.kl.value) > 1e-6, "the other direction is another number"
    sae.forward = lambda acts: acts
    assert spliced_loss(lm, sae, "layers.0", plan).kl.value == pytest.approx(0, abs=1e-7)
    p = torch.tensor([[0.2, 0.8]]).log()
    assert kl_divergence(p, p).item() == 0


def test_held_out_documents_are_found_again_in_the_stores_own_text(lm, make_store):
    documents = [Document(f"{text} {i}") for i, text in enumerate(TEXTS)]
    plan = plan_windows(documents, lm.tokenizer, ctx_len=16)
    fields = plan.row_fields()
    doc_id = fields.pop("doc_id")
    with ActivationStore(make_store(_rows(plan.n_rows), doc_id, **fields)) as store:
        held_out = np.isin(doc_id, [2, 7, 9])
        found = heldout_documents(store, held_out, documents, lm, most=100)
        assert found == [documents[i] for i in (2, 7, 9)]
        assert heldout_documents(store, held_out, documents, lm, most=1) == [documents[2]]
        assert heldout_documents(store, held_out, documents[::-1], lm, most=100) is None, "another text"
        assert heldout_documents(store, held_out, documents[:9], lm, most=100) is None, "a shorter one"


def test_an_empty_split_is_refused(make_store):
    with ActivationStore(make_store(_rows(50))) as store, pytest.raises(ShapeError, match="0 tokens"):
        store_quality(_random_sae(), store, "layers.0", np.zeros(50, dtype=bool))


# ------------------------------------------------------------------------------ SAELens' own evaluation
class _AsSaeLensSeesIt:
    """Our tiny language model behind the calls that SAELens' evaluation makes."""

    def __init__(self, lm, hook_point: str) -> None:
        self.lm, self.hook_point = lm, hook_point
        self.tokenizer = lm.tokenizer

    def __call__(self, tokens, *, return_type, loss_per_token, edit=None):
        assert return_type == "both" and loss_per_token
        with nullcontext() if edit is None else replaced(self.lm.model, self.hook_point, edit):
            logits = self.lm.model(input_ids=tokens).logits
        return logits, F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")

    def run_with_hooks(self, tokens, *, fwd_hooks, **how):
        ((_name, hook),) = fwd_hooks
        return self(tokens, edit=lambda acts: hook(acts, hook=None), **how)

    def run_with_cache(self, tokens, *, names_filter, **_how):
        (name,) = names_filter
        return None, {name: capture(self.lm, tokens, None, [self.hook_point])[self.hook_point]}


@pytest.mark.parametrize("arch", ["topk", "batch-topk"])
def test_saelens_own_evaluation_of_the_folder_agrees(lm, make_store, tmp_path, arch):
    """`sae_lens.evals.run_evals` on the folder and the tokens that our evaluation reads.

    Equal: explained_variance = 1 - FVU, L0, feature_density, and, over the same tokens, CE and KL with the SAE.
    Defined differently, so their formula is computed here from the arrays: l2_ratio (theirs is the mean of ratios of
    lengths, ours the ratio of root sums), explained_variance_legacy, and the averages of CE and KL: they leave out
    what is predicted *at* special tokens, and zero ablation zeroes those too.
    """
    evals = pytest.importorskip("sae_lens.evals")
    from sae_lens import SAE
    from sae_lens.training.activation_scaler import ActivationScaler

    generator, length = torch.Generator().manual_seed(5), 12
    tokens = torch.randint(3, len(lm.tokenizer), (8, length), generator=generator)
    tokens[:, 0] = lm.tokenizer.bos_token_id
    acts = capture(lm, tokens, None, ["layers.0"])["layers.0"]
    rows = acts[:, 1:].flatten(0, 1)
    sae = build_sae(arch, D_IN, D_SAE, k=6)
    sae.init_weights(rows.mean(0), 0)
    if arch == "batch-topk":
        with torch.no_grad():
            sae.threshold.copy_(sae.pre_acts(rows).flatten().topk(6 * len(rows)).values.min())
    with torch.no_grad():
        sae.b_enc[:5] = -100  # never fire
    save_sae(sae, tmp_path / "sae", hook_point="layers.0", metadata={"model_name": "tiny"})
    ours = load_sae(tmp_path / "sae")
    theirs = SAE.load_from_disk(str(tmp_path / "sae"), device="cpu")

    batches = SimpleNamespace(
        get_batch_tokens=lambda n: tokens,
        reset_input_dataset=lambda: None,
        store_batch_size_prompts=8,
        context_size=length,
    )
    config = evals.get_eval_everything_config(n_eval_reconstruction_batches=1)
    model = _AsSaeLensSeesIt(lm, "layers.0")
    metrics, by_latent = evals.run_evals(theirs, batches, model, ActivationScaler(), config)
    with ActivationStore(make_store(rows, np.arange(88) // 11)) as store:
        quality = store_quality(ours, store, "layers.0", np.ones(88, dtype=bool))

    quality_of_theirs = metrics["reconstruction_quality"]
    assert quality_of_theirs["explained_variance"] == pytest.approx(1 - quality.fvu.value, abs=1e-5)
    assert metrics["sparsity"]["l0"] == pytest.approx(quality.l0.value, rel=1e-6) and 2 < quality.l0.value < 8
    density = torch.tensor(by_latent["feature_density"])
    assert (
        float((density == 0).float().mean()) == pytest.approx(quality.frac_dead.value)
        and 0 < quality.frac_dead.value < 1
    )
    assert density_histogram((density * 88).round().long(), 88) == quality.density

    recon = ours(rows)
    ratios = recon.norm(dim=1) / rows.norm(dim=1)
    assert metrics["shrinkage"]["l2_ratio"] == pytest.approx(float(ratios.mean()), rel=1e-5)
    assert quality.l2_ratio.value == pytest.approx(float(recon.norm() / rows.norm()), rel=1e-5)
    errors, spread = (x.square().sum(1) for x in (rows - recon, rows - rows.mean(0)))
    assert quality_of_theirs["explained_variance_legacy"] == pytest.approx(
        float((1 - errors / spread).mean()), rel=1e-4
    )
    assert abs(quality_of_theirs["explained_variance_legacy"] - (1 - quality.fvu.value)) > 1e-4, "another quantity"

    lines = [tokens[i].numpy() for i in range(8)]
    plan = plan_windows([Document("a b c d")], lm.tokenizer, ctx_len=16)
    plan = replace(
        plan, tokens=np.concatenate(lines), starts=np.arange(9) * length, doc_id=np.arange(96) // length,
        keep=np.tile(np.arange(length) > 0, 8), position=np.tile(np.arange(length), 8), from_entity=np.zeros(8, bool),
    )  # fmt: skip
    found = spliced_loss(lm, ours, "layers.0", plan)
    each = evals.get_recons_loss(theirs, model, ActivationScaler(), tokens, True, True, [lm.tokenizer.bos_token_id])
    assert found.ce_clean.value == pytest.approx(float(each["ce_loss_without_sae"].mean()), rel=1e-5)
    assert found.ce_sae.value == pytest.approx(float(each["ce_loss_with_sae"].mean()), rel=1e-5)
    assert found.kl.value == pytest.approx(float(each["kl_div_with_sae"][:, :-1].mean()), rel=1e-4)
    all_zero = spliced_loss(lm, ours, "layers.0", replace(plan, n_prefix=0))
    assert all_zero.ce_zero.value == pytest.approx(float(each["ce_loss_with_ablation"].mean()), rel=1e-5)
    assert metrics["model_performance_preservation"]["ce_loss_with_sae"] == pytest.approx(
        float(each["ce_loss_with_sae"][:, 1:].mean()), rel=1e-5
    )
    clean, spliced, zero = found.ce_clean.value, found.ce_sae.value, found.ce_zero.value
    assert flat(found)["ce_recovered"] == pytest.approx((zero - spliced) / (zero - clean))
