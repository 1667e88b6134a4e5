"""Language models: loading, hook points, token plans, greedy answers; transformers' own outputs are the truth."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from sae_train.errors import ConfigError, FileFormatError, HookPointError, InputError, MissingFileError
from sae_train.lm.answer_end import first_line_is_whole
from sae_train.lm.generate import continuation_log_probs, encode_prompts, greedy_answers, text_loss
from sae_train.lm.hook_names import canonical_hook_point, saelens_name
from sae_train.lm.hooks import capture, captured, check_hook_point, hook_points, replaced, verify_hook_points
from sae_train.lm.models import load_lm, save_lm, weights_hash
from sae_train.text.packing import WIDTH, can_pack, lay_out
from sae_train.text.tokens import Document, bos_prefix, encode_plain, last_token_of_span, load_documents
from sae_train.text.windows import plan_windows

torch.set_num_threads(1)
FAMILIES = ("llama", "gpt2", "neox", "gemma3")


@pytest.fixture(scope="module")
def model_dirs(tmp_path_factory, toy_tokenizer, tiny_llama_dir, tiny_gpt2_dir) -> dict[str, Path]:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    shape = {
        "vocab_size": len(toy_tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    root = tmp_path_factory.mktemp("families")
    gemma3 = Gemma3TextConfig(**shape, num_key_value_heads=2, head_dim=8, sliding_window=16)
    built = {"neox": GPTNeoXForCausalLM(GPTNeoXConfig(**shape)), "gemma3": Gemma3ForCausalLM(gemma3)}
    for name, model in built.items():
        model.eval().save_pretrained(root / name)
        toy_tokenizer.save_pretrained(root / name)
    return {"llama": tiny_llama_dir, "gpt2": tiny_gpt2_dir, **{name: root / name for name in built}}


@pytest.fixture(scope="module")
def lms(model_dirs):
    return {name: load_lm(str(folder), device="cpu") for name, folder in model_dirs.items()}


@pytest.fixture
def lm(lms):
    return lms["llama"]


def _ids(n: int = 2, length: int = 12) -> torch.Tensor:
    return torch.randint(3, 320, (n, length), generator=torch.Generator().manual_seed(1))


def _n_hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


# ---------------------------------------------------------------------------------------------------------- hook points
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_the_same_hook_points(lms, family):
    expected = [
        "embed",
        *(f"layers.{i}{part}" for i in range(2) for part in (".self_attn", ".mlp:in", ".mlp", "")),
    ]
    assert hook_points(lms[family].model) == expected


def test_an_unknown_hook_point_names_the_nearest(lm):
    with pytest.raises(HookPointError) as error:
        check_hook_point(lm.model, "layer.1", model_name="toy")
    assert "layer.1" in error.value.got
    assert error.value.expected.split("nearest: ")[1].startswith("layers.1")
    with pytest.raises(HookPointError):
        check_hook_point(lm.model, "layers.2")


@pytest.mark.parametrize(
    "name", ["embed", "layers.0", "layers.11", "layers.3.mlp", "layers.3.mlp:in", "layers.3.self_attn"]
)
def test_saelens_names_translate_there_and_back(name):
    assert canonical_hook_point(saelens_name(name)) == name


def test_what_enters_a_block_is_what_left_the_one_before():
    assert canonical_hook_point("blocks.4.hook_resid_pre") == "layers.3"
    assert canonical_hook_point("blocks.4.hook_z") == "blocks.4.hook_z"  # not translated, refused later


@pytest.mark.parametrize("family", FAMILIES)
def test_captured_activations_are_the_hidden_states_of_transformers(lms, family):
    lm, ids = lms[family], _ids()
    names = ("embed", "layers.0", "layers.1")
    with torch.no_grad():
        states = lm.model(input_ids=ids, output_hidden_states=True).hidden_states
    found = capture(lm, ids, torch.ones_like(ids), names)
    assert torch.equal(found["embed"], states[0])
    assert torch.equal(found["layers.0"], states[1])
    # the last of transformers' states is behind the final norm
    norm = next(m for n, m in lm.model.named_modules() if n.split(".")[-1] in ("norm", "ln_f", "final_layer_norm"))
    torch.testing.assert_close(norm(found["layers.1"]), states[2], rtol=0, atol=1e-6)
    assert not torch.equal(found["layers.0"], found["layers.1"])


@pytest.mark.parametrize("family", ["llama", "gpt2", "neox"])
def test_a_block_adds_what_its_attention_and_mlp_return(lms, family):
    """Gemma 3 norms both outputs before it adds them, so the sum does not hold there."""
    lm, ids = lms[family], _ids()
    found = capture(lm, ids, None, hook_points(lm.model))
    total = found["layers.0"] + found["layers.1.self_attn"] + found["layers.1.mlp"]
    torch.testing.assert_close(total, found["layers.1"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_capture_stops_early_with_the_same_values(lms, family):
    lm, ids, ran = lms[family], _ids(), []
    n_before = _n_hooks(lm.model)
    head = lm.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda *_: ran.append(1))
    try:
        early = capture(lm, ids, None, ("layers.0",))
        assert not ran
        with torch.no_grad(), captured(lm.model, ("layers.0",)) as whole:
            lm.model(input_ids=ids)
        assert ran
    finally:
        handle.remove()
    assert torch.equal(early["layers.0"], whole["layers.0"])
    assert _n_hooks(lm.model) == n_before


def test_padding_on_the_right_changes_nothing_in_front_of_it(lm):
    ids = _ids(1, 12)
    padded = torch.cat([ids[:, :8], torch.zeros(1, 4, dtype=torch.long)], dim=1)
    mask = torch.tensor([[1] * 8 + [0] * 4])
    alone = capture(lm, ids[:, :8], None, ("layers.1",))["layers.1"]
    torch.testing.assert_close(capture(lm, padded, mask, ("layers.1",))["layers.1"][:, :8], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_sequences_have_the_logits_of_sequences_alone(lms, family):
    """Several in a row, several rows, lengths up to the row's; each beside the model's own pass over it alone."""
    lm, generator = lms[family], np.random.default_rng(0)
    sequences = [generator.integers(3, 20, n).tolist() for n in (5, 1, 30, 2, 2, 40, 1, 17, 6)]
    assert can_pack(lm.model)
    batch = lay_out(sequences, lm.device, packed=True)
    assert batch.ids.shape[0] < len(sequences) and batch.ids.shape[1] <= WIDTH and batch.mask is None
    with captured(lm.model, ["layers.0"]) as packed:
        logits = lm.model(**batch.inputs, use_cache=False).logits
    for number, tokens in enumerate(sequences):
        at = batch.places([(number, place) for place in range(len(tokens))])
        assert at.of(batch.ids).tolist() == tokens
        assert at.of(batch.sequence).tolist() == [number] * len(tokens)
        with captured(lm.model, ["layers.0"]) as alone:
            expected = lm.model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
        torch.testing.assert_close(at.of(logits), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(at.of(packed["layers.0"]), alone["layers.0"][0], rtol=1e-4, atol=1e-5)


def test_padded_and_packed_batches_hold_the_same_tokens():
    sequences = [[3, 4, 5], [6], [7, 8]]
    padded, packed = (lay_out(sequences, torch.device("cpu"), packed=p) for p in (False, True))
    assert padded.ids.tolist() == [[3, 4, 5], [6, 0, 0], [7, 8, 0]] and padded.positions is None
    assert padded.mask.tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert packed.ids.tolist() == [[3, 4, 5, 7, 8, 6]] and packed.positions.tolist() == [[0, 1, 2, 0, 1, 0]]
    for batch in (padded, packed):
        assert batch.places([(2, 1), (0, 0)]).of(batch.ids).tolist() == [8, 3]
        assert batch.tokens().of(batch.ids).tolist() == [3, 4, 5, 6, 7, 8]
    wide = lay_out([[1] * (WIDTH + 6), [2] * 6, [3] * 7], torch.device("cpu"), packed=True)
    assert wide.ids.shape == (2, WIDTH + 6), "a longer sequence makes longer rows"


def test_a_model_that_lets_packed_sequences_see_each_other_is_not_packed(lm, monkeypatch):
    whole = type(lm.model).forward

    def leaking(self, input_ids, position_ids=None, **words):
        return whole(self, input_ids=input_ids, attention_mask=torch.ones_like(input_ids), position_ids=position_ids)

    assert can_pack(lm.model)
    monkeypatch.setattr(type(lm.model), "forward", leaking)
    assert not can_pack(lm.model)

    def without_positions(self, input_ids, attention_mask=None, **words):
        return whole(self, input_ids=input_ids, attention_mask=attention_mask)

    monkeypatch.setattr(type(lm.model), "forward", without_positions)
    assert not can_pack(lm.model)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["embed", "layers.0", "layers.0.mlp", "layers.0.mlp:in", "layers.1.self_attn"])
def test_replacing_by_itself_changes_nothing_and_by_zero_does(lms, family, name):
    lm, ids = lms[family], _ids()
    n_before = _n_hooks(lm.model)
    with torch.no_grad():
        before = lm.model(input_ids=ids).logits
        with replaced(lm.model, name, lambda acts: acts.clone()):
            same = lm.model(input_ids=ids).logits
        with replaced(lm.model, name, torch.zeros_like):
            other = lm.model(input_ids=ids).logits
    assert torch.equal(before, same)
    assert not torch.allclose(before, other, atol=1e-3)
    assert _n_hooks(lm.model) == n_before


def test_hooks_go_away_after_an_exception(lm):
    n_before = _n_hooks(lm.model)

    def fail(_acts):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), replaced(lm.model, "layers.0", fail):
        lm.model(input_ids=_ids())
    with pytest.raises(ZeroDivisionError), captured(lm.model, ("layers.0", "embed")):
        raise ZeroDivisionError
    with pytest.raises(IndexError):
        capture(lm, torch.full((1, 3), 10_000), None, ("layers.0",))  # no such token
    assert _n_hooks(lm.model) == n_before


# ---------------------------------------------------------------------------------------------------------------- plans
TEXT = "The city of Velmora lies on the river Ost. Its harbour is old. "


def test_a_plan_covers_every_token_once_in_windows_behind_the_prefix(toy_tokenizer):
    documents = [Document(TEXT * n) for n in (1, 4, 2)]
    plan = plan_windows(documents, toy_tokenizer, ctx_len=16)
    ids = encode_plain(toy_tokenizer, [d.text for d in documents])[0]
    fields = plan.row_fields()
    assert plan.n_rows == sum(map(len, ids)) == plan.keep.sum()
    assert plan.n_special == plan.n_windows == sum(-(-len(i) // 15) for i in ids)
    assert len(plan.tokens) == plan.n_rows + plan.n_special
    for doc, tokens in enumerate(ids):
        mine = fields["doc_id"] == doc
        order = np.argsort(fields["position"][mine])
        assert fields["position"][mine][order].tolist() == list(range(len(tokens)))
        assert fields["token_id"][mine][order].tolist() == tokens
    for index in range(plan.n_windows):
        window = plan.tokens[plan.window(index)]
        assert window[0] == 1 and len(window) <= 16
    assert not fields["from_entity"].any()


@pytest.mark.parametrize("max_rows", [1, 14, 15, 16, 77, 100])
def test_max_rows_is_exact(toy_tokenizer, max_rows):
    plan = plan_windows([Document(TEXT)] * 12, toy_tokenizer, ctx_len=16, max_rows=max_rows)
    assert plan.n_rows == max_rows


@pytest.mark.parametrize("max_rows", [4, 10, 33, 97])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_entity_rows_make_up_their_share_and_max_rows_stays_exact(toy_tokenizer, max_rows, share):
    names = ["Mira Tolvan", "Old Harrow", "Velmora"] * 40
    entities = [Document(f"Yesterday {n} was there", 10 + len(n)) for n in names]
    plan = plan_windows(
        [Document(TEXT)] * 12,
        toy_tokenizer,
        ctx_len=16,
        max_rows=max_rows,
        entity_documents=entities,
        frac_entity_rows=share,
    )
    assert plan.n_rows == max_rows
    assert plan.row_fields()["from_entity"].sum() == round(max_rows * share)


def test_entity_documents_keep_the_last_name_token_and_nothing_behind_it(toy_tokenizer):
    name = "Nadia Frostwick"
    text = f"The person {name} sang"
    entity = Document(text, len("The person ") + len(name))
    plan = plan_windows([Document(TEXT)], toy_tokenizer, ctx_len=40, entity_documents=[entity], frac_entity_rows=0.04)
    ids, spans = encode_plain(toy_tokenizer, [text])
    fields, last = plan.row_fields(), last_token_of_span(spans[0], entity.keep_char_end)
    mine = fields["from_entity"] == 1
    assert mine.sum() == 1
    assert fields["token_id"][mine] == ids[0][last]
    assert fields["position"][mine] == last
    window = plan.window(int(np.flatnonzero(plan.from_entity)[0]))
    assert plan.tokens[window].tolist() == [1, *ids[0][: last + 1]]  # what follows is never run
    assert fields["doc_id"][mine] == 1


def test_the_last_name_token_of_multi_token_names(toy_tokenizer):
    for name in ("Nadia Frostwick", "Zürich", "東京", "Mira Tolvan"):
        text = f"On the way to {name}, slowly"
        end = len("On the way to ") + len(name)
        ids, spans = (part[0] for part in encode_plain(toy_tokenizer, [text]))
        last = last_token_of_span(spans, end)
        assert toy_tokenizer.decode(ids[: last + 1]) == f"On the way to {name}"
        assert toy_tokenizer.decode(ids[:last]) != f"On the way to {name}"
    assert len(encode_plain(toy_tokenizer, ["東京"])[0][0]) > 2


def test_plans_are_deterministic_and_the_seed_decides_the_mixture(toy_tokenizer):
    def plan(seed):
        entities = [Document(f"The person {n} sang", 11 + len(n)) for n in ("Ivo Pell", "Mira Tolvan", "Edo Karvin")]
        return plan_windows(
            [Document(TEXT[i:]) for i in range(12)],
            toy_tokenizer,
            ctx_len=64,
            max_rows=300,
            entity_documents=entities * 9,
            frac_entity_rows=0.05,
            seed=seed,
        )

    one, same, other = plan(0), plan(0), plan(1)
    assert np.array_equal(one.tokens, same.tokens) and np.array_equal(one.doc_id, same.doc_id)
    assert not np.array_equal(one.doc_id, other.doc_id)


def test_without_a_prefix_the_first_token_of_a_window_is_left_out(tiny_gpt2_dir, tmp_path):
    from transformers import AutoTokenizer

    raw = json.loads((tiny_gpt2_dir / "tokenizer.json").read_text())
    folder = shutil.copytree(tiny_gpt2_dir, tmp_path / "no-bos")
    (folder / "tokenizer.json").write_text(json.dumps({**raw, "post_processor": None}))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert bos_prefix(tokenizer) == []
    n_tokens = len(encode_plain(tokenizer, [TEXT])[0][0])
    plan = plan_windows([Document(TEXT)], tokenizer, ctx_len=8)
    assert plan.n_rows == n_tokens - plan.n_windows and plan.n_special == plan.n_windows
    assert not plan.keep[plan.starts[:-1]].any()
    entities = [Document("Velmora", 1), *[Document("The Velmora", 11)] * 5]  # the first has no row to give
    plan = plan_windows(
        [Document(TEXT)], tokenizer, ctx_len=99, max_rows=6, entity_documents=entities, frac_entity_rows=0.5
    )
    assert plan.row_fields()["from_entity"].sum() == 3


def test_special_tokens_written_in_a_text_are_plain_text(toy_tokenizer):
    ids = encode_plain(toy_tokenizer, ["a <eos> b <pad>"])[0][0]
    assert not {0, 1, 2} & set(ids)
    assert toy_tokenizer.decode(ids) == "a <eos> b <pad>"


def test_plans_refuse_what_gives_no_rows(toy_tokenizer):
    with pytest.raises(ConfigError, match="text"):
        plan_windows([], toy_tokenizer, ctx_len=16)
    with pytest.raises(ConfigError, match="ctx_len"):
        plan_windows([Document(TEXT)], toy_tokenizer, ctx_len=1)


# ------------------------------------------------------------------------------------------------------------ documents
def test_documents_of_every_format_are_the_same(tmp_path):
    import pyarrow
    import pyarrow.parquet

    texts = ["one\ntwo", "drei – 東京", "four"]
    lines = "".join(json.dumps({"text": t, "n": 1}) + "\n" for t in texts) + "\n"
    paragraphs = "\n" + "\n\n \n".join(texts) + "\n"
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "a.txt").write_text(paragraphs, encoding="utf-8")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(paragraphs.encode()))
    pyarrow.parquet.write_table(pyarrow.table({"text": [*texts, None, " "]}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.txt", "a.jsonl.gz", "a.txt.gz", "a.parquet"):
        assert [d.text for d in load_documents(str(tmp_path / name))] == texts, name


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b'{"text": "a"}\n{"text": \n', "line 2"),
        (b'{"text": "a"}\n\n{"txt": "b"}\n', "line 3"),
        (b'{"text": "a"}\n["text"]\n', "line 2"),
        (b'{"text": "a"}\n{"text": 5}\n', "line 2"),
        (b'{"text": "a"}\n{"text": null}\n', "line 2"),
        (b'{"text": "a"}\n{"text": "\\ud800"}\n', "line 2"),
        (b'{"text": "\xff"}\n', "UTF-8"),
    ],
)
def test_malformed_lines_are_named(tmp_path, bad, says):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(bad)
    with pytest.raises(FileFormatError, match=says):
        list(load_documents(str(path)))


def test_malformed_files_are_refused(tmp_path):
    whole = gzip.compress(b"".join(b'{"text": "%d"}\n' % (n**7) for n in range(400)))
    files = {
        "cut.jsonl.gz": whole[: len(whole) // 2],
        "none.jsonl.gz": b"not gzip at all",
        "block.jsonl.gz": whole[:10] + b"\xff" + whole[11:],  # an impossible deflate block
        "bad.parquet": b"PAR1 nothing",
        "a.csv": b"text\na\n",
        "latin.txt": "Zürich".encode("latin-1"),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(FileFormatError, match=name.replace(".", r"\.")):
            list(load_documents(str(tmp_path / name)))


def test_missing_texts_and_columns(tmp_path):
    import pyarrow
    import pyarrow.parquet

    with pytest.raises(MissingFileError, match="text"):
        list(load_documents(str(tmp_path / "corpus.jsonl")))
    pyarrow.parquet.write_table(pyarrow.table({"body": ["a"]}), tmp_path / "b.parquet")
    with pytest.raises(FileFormatError, match="body"):
        list(load_documents(str(tmp_path / "b.parquet")))


# -------------------------------------------------------------------------------------------------------------- answers
def _greedy(lm, prompt: str, n: int) -> str:
    """The plain loop: one prompt, no cache, the most likely token, until <eos> or the first line is whole."""
    ids = torch.tensor(encode_prompts(lm, [prompt]))
    start = ids.shape[1]
    for _ in range(n):
        with torch.no_grad():
            best = lm.model(input_ids=ids, use_cache=False).logits[:, -1].argmax(dim=-1, keepdim=True)
        ids = torch.cat([ids, best], dim=1)
        text = lm.tokenizer.decode(ids[0, start:], skip_special_tokens=True)
        if best.item() == 2 or first_line_is_whole(text):
            break
    return text


PROMPTS = ("The city of", "Mira Tolvan was born in", "Mira", "Where was Edo Karvin born? In", "The river of Tashu")


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_a_plain_greedy_loop(lms, family):
    lm = lms[family]
    answers = greedy_answers(lm, PROMPTS, max_new_tokens=6, batch_size=2)
    assert answers == [_greedy(lm, p, 6) for p in PROMPTS]
    assert len(set(answers)) > 1


def test_answers_stay_greedy_whatever_the_model_prefers(tiny_llama_dir):
    lm = load_lm(str(tiny_llama_dir), device="cpu")
    expected = [_greedy(lm, p, 8) for p in PROMPTS]
    settings = lm.model.generation_config
    settings.do_sample, settings.repetition_penalty, settings.min_new_tokens = True, 9.0, 8
    settings.no_repeat_ngram_size = 1
    assert greedy_answers(lm, PROMPTS, max_new_tokens=8) == expected


def test_answers_end_at_a_line_break(tiny_llama_dir):
    lm = load_lm(str(tiny_llama_dir), device="cpu")
    line_break = lm.tokenizer.encode("\n", add_special_tokens=False)
    with torch.no_grad():
        lm.model.lm_head.weight.zero_()
    # all logits are equal, so the loop writes token 0 (<pad>) for ever: no text at all
    assert greedy_answers(lm, ["The city"], max_new_tokens=4) == [""]
    head = lm.model.lm_head
    handle = head.register_forward_hook(lambda _m, _a, out: out.index_fill(-1, torch.tensor(line_break), 9.0))
    try:
        assert greedy_answers(lm, ["The city", "Mira"], max_new_tokens=4) == ["\n", "\n"]
    finally:
        handle.remove()
    assert greedy_answers(lm, []) == []


def test_log_probabilities_and_text_loss_are_those_of_the_softmax(lm):
    prompt, answer = "Mira Tolvan was born in", " Velmora"
    front, back = encode_prompts(lm, [prompt])[0], encode_plain(lm.tokenizer, [answer])[0][0]
    with torch.no_grad():
        logs = lm.model(input_ids=torch.tensor([front + back])).logits[0].log_softmax(-1)
    expected = sum(float(logs[len(front) - 1 + i, t]) for i, t in enumerate(back))
    got = continuation_log_probs(lm, [prompt, "The city"], [answer, " of"])
    assert got[0] == pytest.approx(expected, abs=1e-4)
    ids = front + back
    nll = -sum(float(logs[i, t]) for i, t in enumerate(ids[1:])) / (len(ids) - 1)
    assert text_loss(lm, [ids]) == pytest.approx(nll, abs=1e-5)
    assert (
        text_loss(lm, [ids, ids[:4]], batch_size=2)
        == pytest.approx(  # padding counts for nothing
            (nll * (len(ids) - 1) + text_loss(lm, [ids[:4]]) * 3) / (len(ids) + 2), abs=1e-5
        )
    )


# -------------------------------------------------------------------------------------------------------------- loading
def _variant(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def test_missing_models_are_refused(tmp_path):
    with pytest.raises(MissingFileError, match="model"):
        load_lm(str(tmp_path / "nothing"))
    with pytest.raises(MissingFileError, match="model"):
        load_lm("no-such-model")
    with pytest.raises(FileFormatError, match=r"config\.json"):
        load_lm(str(tmp_path))


def test_a_bad_dtype_or_device_is_refused(tiny_llama_dir):
    with pytest.raises(ConfigError, match="int8"):
        load_lm(str(tiny_llama_dir), dtype="int8")
    with pytest.raises(InputError, match="tpu9"):
        load_lm(str(tiny_llama_dir), device="tpu9")


def test_pickled_weights_are_never_read(tiny_llama_dir, tmp_path):
    from safetensors.torch import load_file

    folder = _variant(tiny_llama_dir, tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileFormatError, match=r"safetensors"):
        load_lm(str(folder))


@pytest.mark.parametrize("damage", ["truncated", "garbage", "config", "config-list", "tokenizer", "no-tokenizer"])
def test_damaged_folders_are_refused(tiny_llama_dir, tmp_path, damage):
    folder = _variant(tiny_llama_dir, tmp_path / damage)
    weights = folder / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    elif damage == "garbage":
        weights.write_bytes(b"x" * 100)
    elif damage == "no-tokenizer":
        (folder / "tokenizer.json").unlink()
    else:
        name = "tokenizer.json" if damage == "tokenizer" else "config.json"
        (folder / name).write_text("[]" if damage == "config-list" else "{")
    with pytest.raises(FileFormatError, match=damage):
        load_lm(str(folder))


def test_a_folder_that_lacks_a_weight_is_refused(tiny_llama_dir, tmp_path):
    """transformers draws random numbers in the place of a missing tensor and goes on."""
    from safetensors.torch import load_file, save_file

    folder = _variant(tiny_llama_dir, tmp_path / "lacking")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FileFormatError, match=r"layers\.1\.mlp\.up_proj"):
        load_lm(str(folder))


def test_a_loaded_model_is_frozen_and_described(lm):
    assert (lm.n_blocks, lm.d_model, lm.max_positions) == (2, 32, 128)
    assert not lm.model.training and not any(p.requires_grad for p in lm.model.parameters())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_weights_hash_sees_one_weight_and_survives_saving(model_dirs, tmp_path, family):
    lm = load_lm(str(model_dirs[family]), device="cpu")
    before = weights_hash(lm.model)
    save_lm(lm, tmp_path / "saved")
    assert weights_hash(load_lm(str(tmp_path / "saved"), device="cpu").model) == before
    with torch.no_grad():
        last = list(lm.model.parameters())[-1]
        last.view(-1)[3] = torch.nextafter(last.view(-1)[3], torch.tensor(1e9))
    assert weights_hash(lm.model) != before
    assert weights_hash(load_lm(str(model_dirs[family]), device="cpu", dtype="bfloat16").model) != before


@pytest.mark.parametrize("family", FAMILIES)
def test_hook_points_are_verified_against_the_models_own_hidden_states(lms, family, monkeypatch):
    lm, names = lms[family], ("embed", "layers.0", "layers.1", "layers.1.mlp")
    verify_hook_points(lm, _ids(1), names)
    verify_hook_points(lm, _ids(1), ("layers.1.mlp",))  # nothing there to compare with

    def off_by_one(lm, ids, mask, wanted):
        found = capture(lm, ids, mask, ["embed", "layers.0"])
        return {"embed": found["layers.0"], "layers.0": found["embed"]}

    monkeypatch.setattr("sae_train.lm.hooks.capture", off_by_one)
    with pytest.raises(HookPointError, match=r"hidden_states\[0\]"):
        verify_hook_points(lm, _ids(1), names)
