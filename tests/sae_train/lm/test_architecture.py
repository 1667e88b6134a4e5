"""Where a model keeps its parts: each row of the page's facts on a tiny model, beside transformers' outputs."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from sae_train.errors import ArchitectureError, ConfigError, InputError, NumericalError
from sae_train.lm.answering import Decoding, write_answers
from sae_train.lm.architecture_check import architecture_of
from sae_train.lm.candidates import option_scores
from sae_train.lm.generate import continuation_log_probs, logits_at
from sae_train.lm.hooks import capture, captured, captured_keys, hook_points, replaced, verify_hook_points
from sae_train.lm.logit_lens import final_logits, logit_lens
from sae_train.lm.models import LanguageModel, load_lm, save_lm
from sae_train.lm.patching import Patch, patched_answers, prefill_patched
from sae_train.lm.token_acts import acts_at
from sae_train.text.packing import lay_out

torch.set_num_threads(1)
ROWS = json.loads(
    (Path(__file__).resolve().parents[3] / "docs" / "reference" / "architectures.json").read_text(encoding="utf-8")
)
UNDERSTOOD = [row["tiny"] for row in ROWS if "refused" not in row]
REFUSED = [row["tiny"] for row in ROWS if "refused" in row]
ASKED_FOR = {"llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "gemma3-multimodal", "gpt2", "gpt-neox", "phi"}
ASKED_FOR |= {"phi3", "opt", "bloom", "falcon", "mpt", "olmo2", "stablelm", "mixtral", "qwen2-moe", "mamba"}
SAVED = ("llama", "gpt2", "opt-350m", "bloom", "falcon", "mixtral", "gemma3-multimodal", "mamba")


@pytest.fixture(scope="module")
def lms(tiny_model, toy_tokenizer):
    """Return a function that gives the model of an architecture, built once; never change it."""
    made: dict[str, LanguageModel] = {}

    def lm(name: str) -> LanguageModel:
        if name not in made:
            made[name] = LanguageModel(tiny_model(name), toy_tokenizer, f"tiny-{name}", torch.device("cpu"))
        return made[name]

    return lm


def _ids(n: int = 2, length: int = 9) -> torch.Tensor:
    return torch.randint(3, 300, (n, length), generator=torch.Generator().manual_seed(1))


def _n_hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


# ----------------------------------------------------------------------------------------------------------- the table
def test_the_table_covers_what_people_use():
    assert set(UNDERSTOOD) >= ASKED_FOR and REFUSED


@pytest.mark.parametrize("row", ROWS, ids=[row["tiny"] for row in ROWS])
def test_the_documented_facts_are_those_of_the_model(row, lms, tiny_model, architecture_facts):
    if "refused" in row:
        with pytest.raises(ArchitectureError) as refused:
            architecture_of(tiny_model(row["tiny"]))
        assert (row["class"] in refused.value.what) and refused.value.got == row["refused"]
        return
    lm = lms(row["tiny"])
    assert {"tiny": row["tiny"], **architecture_facts(lm.architecture)} == row
    head, embedding = lm.model.get_output_embeddings(), lm.model.get_input_embeddings()
    assert lm.architecture.is_tied == (head.weight is embedding.weight)


# ------------------------------------------------------------------------------------------------------------ the model
@pytest.mark.parametrize("name", UNDERSTOOD)
def test_captured_are_the_hidden_states_and_the_last_one_gives_the_logits(name, lms):
    """transformers' list begins at the embedding, in recurrent models behind the first block; its last is normed."""
    lm, ids, last = lms(name), _ids(), lms(name).n_blocks - 1
    with torch.no_grad():
        out = lm.model(input_ids=ids, output_hidden_states=True, use_cache=False)
    states = out.hidden_states if name in ("mamba", "mamba2", "rwkv") else out.hidden_states[1:]
    found = capture(lm, ids, torch.ones_like(ids), [f"layers.{i}" for i in range(last + 1)])
    for block in range(last):
        torch.testing.assert_close(found[f"layers.{block}"], states[block], rtol=0, atol=1e-6)
    verify_hook_points(lm, ids[:1], ["embed", *found])

    logits = final_logits(lm, found[f"layers.{last}"].flatten(0, 1)).view_as(out.logits)
    torch.testing.assert_close(logits, out.logits, rtol=1e-4, atol=1e-4 * float(out.logits.abs().max()))
    assert float(logits.std()) > 1e-3, "a model that says nothing would pass"
    assert logit_lens(lm, torch.eye(lm.d_model)[:3]).shape == (3, out.logits.shape[-1])


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_replacing_takes_effect_at_every_hook_point(name, lms):
    lm, ids = lms(name), _ids()
    points, n_before = hook_points(lm.model), _n_hooks(lm.model)  # transformers leaves some of its own
    assert points[0] == "embed" and points[-1] == f"layers.{lm.n_blocks - 1}"
    with torch.no_grad():
        before = lm.model(input_ids=ids, use_cache=False).logits
        for point in points:
            with captured(lm.model, [point]) as found, replaced(lm.model, point, lambda acts: acts.clone()):
                same = lm.model(input_ids=ids, use_cache=False).logits
            assert found[point].shape == (*ids.shape, lm.d_model)
            with replaced(lm.model, point, lambda acts: acts.flip(1) + 1.0):
                other = lm.model(input_ids=ids, use_cache=False).logits
            assert torch.equal(before, same), point
            assert not torch.allclose(before, other, rtol=1e-3, atol=0), point
    assert _n_hooks(lm.model) == n_before


@pytest.mark.parametrize("row", [r for r in ROWS if "refused" not in r], ids=UNDERSTOOD)
def test_a_block_adds_what_its_attention_and_mlp_return(row, lms):
    """Where MLPs write straight: in Bloom, MPT and Falcon the modules themselves return, or become, other things."""
    lm, ids = lms(row["tiny"]), _ids()
    if row["writes"] != ["straight"] or row["attention"] != "every block" or row["tiny"] == "falcon-h1":
        return  # something stands in between, or something else adds as well
    block = lm.n_blocks - 1
    with torch.no_grad(), captured(lm.model, hook_points(lm.model)) as found:
        lm.model(input_ids=ids, use_cache=False)
    total = found[f"layers.{block - 1}"] + found[f"layers.{block}.self_attn"] + found[f"layers.{block}.mlp"]
    torch.testing.assert_close(total, found[f"layers.{block}"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_what_an_mlp_reads_decides_what_it_returns(name, lms):
    """Its input alone: held still it returns the same whatever stands before it, moved it returns something else."""
    lm = lms(name)
    with_mlp = [i for i, b in enumerate(lm.architecture.blocks) if b.mlp is not None]
    if not with_mlp:
        assert not [point for point in hook_points(lm.model) if ".mlp" in point]
        return
    index, ids = with_mlp[-1], _ids()
    point = f"layers.{index}.mlp"

    def returned(other_ids, edit):
        with (
            torch.no_grad(),
            replaced(lm.model, f"{point}:in", edit),
            captured(lm.model, [point, f"{point}:in"]) as found,
        ):
            lm.model(input_ids=other_ids, use_cache=False)
        return found

    as_it_is = returned(ids, lambda acts: acts.clone())
    kept = as_it_is[f"{point}:in"].clone()
    assert kept.shape == (*ids.shape, lm.d_model) == as_it_is[point].shape
    held, moved = returned(ids.flip(1), lambda acts: kept), returned(ids, lambda acts: acts.flip(1) + 1.0)
    gap = float((moved[point] - as_it_is[point]).abs().max())
    assert not torch.equal(ids, ids.flip(1)) and gap > 1e-3
    torch.testing.assert_close(held[point], as_it_is[point], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_the_matrices_trained_are_those_by_which_mlps_write(name, lms):
    """Without them an MLP returns nothing (but its bias), so a block with all of them at zero has no MLP."""
    lm = lms(name)
    table, mlps = lm.architecture, [b.mlp for b in lm.architecture.blocks if b.mlp is not None]
    if not any(m.writing for m in mlps):
        with pytest.raises(ConfigError, match=table.name):
            table.written_parameters()
        return
    parameters = dict(lm.model.named_parameters())
    names = table.written_parameters()
    assert len(set(names)) == len(names) and all(table.blocks[0].path.rpartition(".")[0] in n for n in names)
    kept = {n: parameters[n].clone() for n in names}
    points = [f"layers.{i}.mlp" for i, b in enumerate(table.blocks) if b.mlp is not None]
    with torch.no_grad(), captured(lm.model, points) as found:
        for n in names:
            parameters[n].zero_()
        lm.model(input_ids=_ids(), use_cache=False)
        for n in names:
            parameters[n].copy_(kept[n])
    for acts in found.values():
        assert float((acts - acts[:1, :1]).abs().max()) < 1e-6, "the same at every token: a bias, or nothing"


@pytest.mark.parametrize("row", [r for r in ROWS if "refused" not in r], ids=UNDERSTOOD)
def test_the_closed_form_gets_its_matrix_or_the_reason(row, lms):
    lm = lms(row["tiny"])
    table = lm.architecture
    if row["closed_form"] != "every block":
        with pytest.raises(ConfigError, match=row["class"]) as refused:
            table.straight_matrices()
        assert "layers." in refused.value.got
        return
    (matrix,) = table.straight_matrices([1])
    with torch.no_grad(), captured_keys(lm.model, [1]) as keys, captured(lm.model, ["layers.1.mlp"]) as found:
        lm.model(input_ids=_ids(), use_cache=False)
    weight = lm.model.get_submodule(matrix.path).weight
    moved = keys[1] @ (weight if matrix.is_transposed else weight.T)
    # up to what does not depend on the token, the matrix of these keys is what the MLP returns
    torch.testing.assert_close(
        moved - moved[:1, :1], found["layers.1.mlp"] - found["layers.1.mlp"][:1, :1], atol=1e-5, rtol=0
    )


# -------------------------------------------------------------------------------------------------------------- answers
@pytest.mark.parametrize(
    "name", ["llama", "bloom", "opt", "lfm2", "falcon-h1", "qwen3-next", "qwen3.5", "jamba", "mamba", "rwkv", "gpt"]
)
def test_answers_are_greedy_whether_from_a_cache_or_read_again(name, lms):
    """Two prompts begin alike, so that a cache would be repeated; answers end apart, so that rows would be selected."""
    lm = lms(name)
    prompts = [[1, 20, 30, 40], [1, 20, 30, 41], [1, 20, 33, 42], [1, 7]]
    expected = []
    for prompt in prompts:
        ids = list(prompt)
        with torch.no_grad():
            for _ in range(4):
                ids.append(int(lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        expected.append(ids[len(prompt) :])
    stop = lm.tokenizer.decode(expected[0][:1], skip_special_tokens=True)
    found = write_answers(lm, prompts, Decoding(4, samples=1), is_over=lambda text: False)
    ends = {lm.tokenizer.eos_token_id}
    for ids, answer in zip(expected, found, strict=True):
        upto = next((i for i, t in enumerate(ids) if t in ends), len(ids))
        assert answer.greedy == lm.tokenizer.decode(ids[:upto], skip_special_tokens=True)
    short = write_answers(lm, prompts, Decoding(4), is_over=lambda text: text.startswith(stop) and bool(stop))
    assert [f.greedy for f in found][3] == short[3].greedy or short[3].greedy.startswith(stop)


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_logits_at_some_tokens_are_those_of_the_whole_batch(name, lms):
    lm, ids = lms(name), _ids()
    batch = lay_out(ids.tolist(), torch.device("cpu"), packed=False)
    with torch.no_grad():
        whole = lm.model(**batch.inputs, use_cache=False).logits
        chosen = logits_at(lm.model, batch, batch.places([(1, 8), (0, 3), (1, 0)]))
    assert chosen.shape == (3, whole.shape[-1]) and not lm.model.get_output_embeddings()._forward_pre_hooks
    assert torch.allclose(chosen, whole[[1, 0, 1], [8, 3, 0]], atol=1e-5 * float(whole.abs().max()))


@pytest.mark.parametrize("name", ["llama", "opt", "lfm2", "jamba", "mamba"])
def test_options_are_scored_as_whole_texts_are(name, lms):
    lm, prompts, options = lms(name), ["The city of", "The river of"], [["Velmora", "Ost", "a"], ["Ost"]]
    for prompt, own, scores in zip(prompts, options, option_scores(lm, prompts, options), strict=True):
        expected = continuation_log_probs(lm, [prompt] * len(own), [f" {o}" for o in own])
        assert scores.log_probs == pytest.approx(expected, abs=1e-4)


def _written_by_hand(lm: LanguageModel, prompt: list[int], point: str, rows: torch.Tensor, n: int) -> list[int]:
    """Return greedy tokens without cache or batch; every pass has `rows` at the prompt's tokens but the first."""

    def edit(acts: torch.Tensor) -> torch.Tensor:
        changed = acts.clone()
        changed[:, 1 : len(prompt)] = rows
        return changed

    written: list[int] = []
    with torch.no_grad(), replaced(lm.model, point, edit):
        for _ in range(n):
            logits = lm.model(input_ids=torch.tensor([[*prompt, *written]]), use_cache=False).logits
            written.append(int(logits[0, -1].argmax()))
    ends = [i for i, token in enumerate(written) if token == lm.tokenizer.eos_token_id]
    return written[: ends[0]] if ends else written


@pytest.mark.parametrize(
    "name", ["llama", "bloom", "lfm2", "falcon-h1", "qwen3-next", "qwen3.5", "mamba", "rwkv", "gpt"]
)
def test_patched_answers_are_those_of_an_edit_at_every_pass(name, lms):
    """Each prompt has its own patch, and keeps it: beside samples, and behind a prompt whose answer ends first."""
    lm, point = lms(name), "layers.0"
    prompts = [[1, 20, 30, 40], [1, 7], [1, 20, 30, 41], [1, 20, 33, 42]]
    generator = torch.Generator().manual_seed(6)
    rows = [torch.randn(len(p) - 1, lm.d_model, generator=generator) * 10 for p in prompts]
    patch = Patch(point, [list(range(1, len(p))) for p in prompts], rows)
    tokens = [_written_by_hand(lm, p, point, r, 4) for p, r in zip(prompts, rows, strict=True)]
    expected = [lm.tokenizer.decode(ids, skip_special_tokens=True) for ids in tokens]
    plain = write_answers(lm, prompts, Decoding(4), is_over=lambda text: False)
    assert all(text != w.greedy for text, w in zip(expected, plain, strict=True)), "every patch says something else"
    assert len(set(expected)) > 2, "a patch at the wrong prompt would show"

    for said, text in zip(patched_answers(lm, prompts, patch, Decoding(4)), expected, strict=True):
        assert said.greedy and text.startswith(said.greedy)
    reading = partial(prefill_patched, lm.model, patch)
    likeliest = Decoding(4, samples=2, temperature=1e-6)
    found = write_answers(lm, prompts, likeliest, is_over=lambda text: False, while_reading=reading)
    assert [(w.greedy, w.samples) for w in found] == [(text, (text, text)) for text in expected]
    first = lm.tokenizer.decode(tokens[0][:1], skip_special_tokens=True)
    cut = write_answers(lm, prompts, likeliest, is_over=lambda text: text == first, while_reading=reading)
    assert cut[0].greedy == first != expected[0]
    starts = [lm.tokenizer.decode(ids[:1], skip_special_tokens=True) for ids in tokens]
    assert [w.greedy for w in cut] == [
        first if start == first else text for start, text in zip(starts, expected, strict=True)
    ]

    unchanged = acts_at(lm, prompts, patch.positions, [point])[point]
    assert [own.shape for own in unchanged] == [r.shape for r in rows]
    same = patched_answers(lm, prompts, replace(patch, rows=unchanged), Decoding(4))
    assert same == write_answers(lm, prompts, Decoding(4)), "their own rows change nothing"


# ------------------------------------------------------------------------------------------------------ files, refusals
@pytest.mark.parametrize("name", SAVED)
def test_a_model_saved_and_loaded_gives_the_same_logits(name, lms, tmp_path):
    lm = lms(name)
    save_lm(lm, tmp_path / "model")
    again = load_lm(str(tmp_path / "model"), device="cpu")
    with torch.no_grad():
        one, two = (m.model(input_ids=_ids(), use_cache=False).logits for m in (lm, again))
    assert torch.equal(one, two)
    assert again.architecture.readout and len(again.architecture.blocks) == lm.n_blocks


def test_a_copy_has_the_table_without_being_run(lms, monkeypatch):
    import copy

    lm = lms("llama")
    known, twin = lm.architecture, copy.deepcopy(lm.model)
    monkeypatch.setattr(type(twin), "forward", lambda *_, **__: pytest.fail("run again"))
    assert architecture_of(twin) == known


def _renamed(model: nn.Module, old: str, new: str) -> nn.Module:
    """Return the model with a module of every block under another name, and blocks that find it there."""
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    class Block(LlamaDecoderLayer):
        def __getattr__(self, name: str):
            return super().__getattr__(new if name == old else name)

    for block in model.model.layers:
        block._modules[new] = block._modules.pop(old)
        block.__class__ = Block
    return model


def test_an_unknown_layout_is_refused_with_its_class_and_what_was_looked_for(tiny_model):
    model = _renamed(tiny_model("llama"), "mlp", "thinker")
    model(input_ids=_ids())  # it works, under other names
    with pytest.raises(ArchitectureError) as refused:
        architecture_of(model)
    assert isinstance(refused.value, InputError) and refused.value.exit_code == 2
    assert "LlamaForCausalLM" in refused.value.what and "thinker in model.layers.0" in refused.value.got
    assert all(word in refused.value.expected for word in ("self_attn", "feed_forward", "mixer"))

    model.model.layers.append(nn.Identity())
    with pytest.raises(ArchitectureError, match="2 modules") as refused:
        architecture_of(model)
    assert "model.layers (3)" in refused.value.got


def test_load_lm_refuses_what_is_not_understood(tiny_folder):
    with pytest.raises(ArchitectureError, match="CTRLLMHeadModel"):
        load_lm(str(tiny_folder("ctrl")), device="cpu")


def _with(name: str, edit):
    """Return a hook that changes one field of what a model returns."""

    def hook(_module, _args, out):
        out[name] = edit(out[name])
        return out

    return hook


def _without_its_mlp(block: nn.Module):
    """Return a forward pass that runs the MLP and makes no use of it."""

    def forward(hidden_states, **_):
        block.mlp(hidden_states)
        return hidden_states * 2.0

    return forward


@pytest.mark.parametrize(
    ("lie", "expected"),
    [
        ("norm", "the model's own logits"),
        ("states", "hidden states that the model itself returns"),
        ("stream", "adds to the stream"),
        ("nowhere", "in the output of model.layers.1"),
    ],
)
def test_a_forward_pass_that_contradicts_the_names_is_refused(lie, expected, tiny_model):
    model = tiny_model("llama")
    last = model.model.layers[1]
    if lie == "norm":  # something stands behind the final norm
        model.model.register_forward_hook(_with("last_hidden_state", torch.abs))
    elif lie == "states":  # the blocks are not what hidden_states are of
        model.register_forward_hook(_with("hidden_states", lambda states: tuple(s + 1 for s in states or ())))
    elif lie == "stream":  # the MLP returns what the block does
        last.forward = lambda hidden_states, **_: last.mlp(hidden_states)
    else:
        last.forward = _without_its_mlp(last)
    with pytest.raises(ArchitectureError, match="LlamaForCausalLM") as refused:
        architecture_of(model)
    assert expected in refused.value.expected
    assert "_sae_workbench_architecture" not in model.__dict__


@pytest.mark.parametrize("size", [30.0, 3000.0])
def test_logits_near_their_cap_are_still_the_models_own(size, tiny_model):
    """Bent logits are compared as such: unbent, the ones near the cap would be lost in rounding."""
    model = tiny_model("gemma2")
    with torch.no_grad():
        model.lm_head.weight.mul_(size)
        out = model(input_ids=_ids()).logits
    assert float(out.abs().max()) > 10
    table = architecture_of(model)
    assert table.logit_cap == 30.0 and table.readout == ("model.norm",)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "opt-350m", "falcon", "mixtral", "cohere"])
def test_half_precision_gives_the_same_table(name, lms, tiny_model):
    whole, half = lms(name).architecture, architecture_of(tiny_model(name).to(torch.bfloat16))
    assert half.logit_scale == pytest.approx(whole.logit_scale, rel=0.05)
    assert replace(half, logit_scale=whole.logit_scale) == whole


def test_a_model_that_computes_no_numbers_is_refused(tiny_model):
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(NumericalError, match="LlamaForCausalLM"):
        architecture_of(model)
