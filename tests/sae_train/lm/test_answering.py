"""Answers: one definition of greedy, samples that depend on seed and question alone, early ends, shared beginnings."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from sae_train.config import Decoding
from sae_train.errors import ConfigError
from sae_train.lm.answering import _read, batches_by_length, write_answers
from sae_train.lm.draws import PerBatch, PerQuestion, choose_by_number
from sae_train.lm.generate import encode_prompts, greedy_answers, sampled_answers
from sae_train.lm.hooks import capture
from sae_train.lm.patching import Patch, patched_answers
from sae_train.lm.token_acts import acts_at
from sae_train.text.chat import chat_text, encode_chat

TEXTS = [
    "The city of Velmora",
    "The city of Tashu lies",
    "Mira",
    "Mira",
    "Where was Mira Tolvan born?",
    "A",
    "The city",
]
CHATML = "{% for m in messages %}<bos>{{ m['role'] }}\n{{ m['content'] }}<eos>\n{% endfor %}{{ '<bos>assistant\n' }}"


@pytest.fixture(scope="module")
def lm(tiny_llama_dir):
    from sae_train.lm.models import load_lm

    return load_lm(str(tiny_llama_dir), device="cpu")


@pytest.fixture(scope="module")
def prompts(lm):
    return encode_prompts(lm, TEXTS)


def by_hand(lm, prompt, n):
    """Greedy tokens without a cache."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(n):
            ids.append(int(lm.model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_greedy_answers_are_those_without_cache_and_batch(lm, prompts):
    found = write_answers(lm, prompts, Decoding(6), is_over=lambda text: False)
    for prompt, said in zip(prompts, found, strict=True):
        expected = by_hand(lm, prompt, 6)
        if lm.tokenizer.eos_token_id in expected:
            expected = expected[: expected.index(lm.tokenizer.eos_token_id)]
        assert said.greedy == lm.tokenizer.decode(expected, skip_special_tokens=True)
    assert len({w.greedy for w in found}) > 2


@pytest.mark.parametrize("rows", [1, 5, 64])
def test_samples_depend_on_seed_and_question_alone(lm, prompts, rows):
    decoding = Decoding(5, samples=4, seed=3)
    found = write_answers(lm, prompts, decoding, rows=rows)
    alone = [write_answers(lm, [p], decoding)[0] for p in prompts]
    assert found == alone
    backwards = write_answers(lm, prompts[::-1], decoding, rows=rows)
    assert found == backwards[::-1]
    assert found[2] == found[3], "the same question, the same answers"
    other = write_answers(lm, prompts, Decoding(5, samples=4, seed=4), rows=rows)
    assert [w.greedy for w in other] == [w.greedy for w in found]
    assert [w.samples for w in other] != [w.samples for w in found]
    assert len({s for w in found for s in w.samples}) > 4


def test_samples_follow_the_softmax_at_the_temperature():
    """6,000 draws of three tokens with logits 0, 1, 2 at temperature 2: shares e^0, e^.5, e^1 over their sum."""
    logits = torch.tensor([[0.0, 1.0, 2.0]]).repeat(6_000, 1)
    uniform = torch.from_numpy(np.random.default_rng(0).random(6_000, dtype=np.float32))
    drawn = Counter(choose_by_number(logits, uniform, torch.zeros(6_000, dtype=torch.bool), 2.0).tolist())
    weights = np.exp([0, 0.5, 1])
    expected = weights / weights.sum()
    # the standard error of a share is below 0.0065; four of them
    assert [drawn[i] / 6_000 for i in range(3)] == pytest.approx(expected.tolist(), abs=0.026)
    greedy = choose_by_number(logits, uniform, torch.ones(6_000, dtype=torch.bool), 2.0)
    assert greedy.tolist() == [2] * 6_000


def test_no_token_without_probability_is_ever_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]]).repeat(3, 1)
    uniform = torch.tensor([0.0, 0.5, 1 - 2**-24])
    assert choose_by_number(logits, uniform, torch.zeros(3, dtype=torch.bool), 1.0).tolist() == [1, 1, 1]


def test_a_low_temperature_is_greedy(lm, prompts):
    for said in write_answers(lm, prompts, Decoding(5, samples=3, temperature=1e-4)):
        assert set(said.samples) == {said.greedy}


def test_an_answer_ends_where_it_is_over_and_others_go_on(lm, prompts):
    whole = write_answers(lm, prompts, Decoding(8, samples=2), is_over=lambda text: False)
    cut = write_answers(lm, prompts, Decoding(8, samples=2), is_over=lambda text: len(text) >= 4)
    for long, short in zip(whole, cut, strict=True):
        for full, part in zip((long.greedy, *long.samples), (short.greedy, *short.samples), strict=True):
            assert full.startswith(part)
    lengths = {len(s) for w in cut for s in w.samples}
    assert len(lengths) > 1, "rows left the batch at different steps"
    assert cut != whole


def test_samples_of_one_stream_are_those_of_generate(lm, prompts):
    """Audits keep the random stream of transformers' `generate`: what is drawn is the same, cut where it is over."""
    from transformers import GenerationConfig

    config = GenerationConfig(
        do_sample=True, top_k=0, top_p=1.0, num_return_sequences=3, max_new_tokens=7, eos_token_id=2, pad_token_id=0
    )
    asked = prompts * 3
    expected = [[] for _ in asked]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(4)
        for batch in batches_by_length([len(p) for p in asked], 4):
            ids = torch.tensor([asked[i] for i in batch])
            out = lm.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
            said = lm.tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
            for row, index in enumerate(batch):
                expected[index] = said[row * 3 : (row + 1) * 3]
    whole = write_answers(
        lm, asked, Decoding(7, samples=3, seed=4), rows=4 * 4, draws=PerBatch, is_over=lambda text: False
    )
    assert [list(w.samples) for w in whole] == expected
    assert len({s for w in whole for s in w.samples}) > 10
    cut = write_answers(
        lm, asked, Decoding(7, samples=3, seed=4), rows=4 * 4, draws=PerBatch, is_over=lambda text: len(text) >= 4
    )
    for long, short in zip(whole, cut, strict=True):
        assert all(
            a.startswith(b) and (a == b or len(b) >= 4) for a, b in zip(long.samples, short.samples, strict=True)
        )
    assert cut != whole
    assert [w.greedy for w in whole] == [
        w.greedy for w in write_answers(lm, asked, Decoding(7), is_over=lambda _: False)
    ]


def test_a_stream_goes_on_until_every_sample_has_ended(lm, prompts):
    """Rows whose answer is over take numbers all the same; a batch in which all have ended takes no more."""
    draws = PerBatch(1, 4, 1.0, 0, lm.device)
    rows = [0, 1, 2, 3]  # two questions: greedy, sampled, greedy, sampled
    assert draws.staying(rows, [True] * 4, [False] * 4) == rows
    assert draws.staying(rows, [True] * 4, [True, True, True, False]) == rows
    assert draws.staying(rows, [True] * 4, [False, True, False, True]) == []
    assert PerQuestion(1, 4, 1.0, 0, lm.device).staying(rows, [True, False, True, True], [False] * 4) == [1]


def test_one_rule_ends_greedy_sampled_and_patched_answers(lm, prompts):
    """All three stop behind the first token whose text makes the first line whole: nothing is written behind it."""
    stop = lm.tokenizer.encode(". ", add_special_tokens=False)
    assert len(stop) == 2, "a full stop, and the blank that makes it one"
    steps = iter(range(10**6))

    def push(_module, _args, out):
        return out.index_fill(-1, torch.tensor(stop[next(steps) % 2]), 1e4)

    rows = acts_at(lm, prompts, [[0]] * len(prompts), ["layers.0"])["layers.0"]
    writers = {
        "greedy": lambda p: greedy_answers(lm, [TEXTS[p]], max_new_tokens=8)[0],
        "sampled": lambda p: sampled_answers(lm, [TEXTS[p]], n_samples=1, max_new_tokens=8, seed=0)[0][0],
        "patched": lambda p: (
            patched_answers(lm, [prompts[p]], Patch("layers.0", [[0]], [rows[p]]), Decoding(8))[0].greedy
        ),
    }
    handle = lm.model.lm_head.register_forward_hook(push)
    try:
        for write in writers.values():
            steps = iter(range(10**6))
            assert write(0) == ". "
    finally:
        handle.remove()


def test_activations_at_tokens_are_those_of_a_plain_loop(lm, prompts):
    """One prompt at a time, whole, without cutting or batches; rows come in the order asked for."""
    places = [[len(p) - 1, 0, (len(p) - 1) // 2] for p in prompts]
    done = []
    found = acts_at(lm, prompts, places, ["layers.0", "layers.1"], batch_size=2, advance=done.append)
    for index, (prompt, where) in enumerate(zip(prompts, places, strict=True)):
        whole = capture(lm, torch.tensor([prompt]), None, ["layers.0", "layers.1"])
        for name, acts in whole.items():
            torch.testing.assert_close(found[name][index], acts[0, where], rtol=1e-4, atol=1e-5)
            assert not torch.allclose(found[name][index][0], acts[0, 0]) or len(prompt) == 1, "the order matters"
    assert sum(done) == len(prompts)
    cut = acts_at(lm, prompts, [[0]] * len(prompts), ["layers.1"])["layers.1"]
    torch.testing.assert_close(torch.cat(cut), torch.stack([f[1] for f in found["layers.1"]]), rtol=1e-4, atol=1e-5)


def test_what_prompts_begin_with_is_read_once(lm, prompts):
    same_length = [[*prompts[0][:-1], token] for token in (5, 6, 7)]
    seen = []
    handle = lm.model.model.embed_tokens.register_forward_hook(lambda m, args, out: seen.append(tuple(args[0].shape)))
    try:
        logits, _ = _read(lm, same_length)
    finally:
        handle.remove()
    n = len(prompts[0])
    assert seen == [(1, n - 1), (3, 1)]
    expected = lm.model(torch.tensor(same_length)).logits[:, -1]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [{"samples": -1}, {"temperature": 0.0}, {"temperature": -1.0}])
def test_settings_out_of_range(bad):
    with pytest.raises(ConfigError):
        Decoding(**bad)


def test_nothing_asked_nothing_said(lm):
    assert write_answers(lm, [], Decoding()) == []


def test_chat_text_knows_where_the_words_are_and_spells_out_special_tokens(toy_tokenizer, monkeypatch):
    monkeypatch.setattr(toy_tokenizer, "chat_template", CHATML)
    found = chat_text(toy_tokenizer, "Where is Velmora?", "It is in")
    assert found.text[found.user_at :].startswith("Where is Velmora?")
    assert found.text[found.start_at :] == "It is in"
    (ids,), (offsets,) = encode_chat(toy_tokenizer, [found.text])
    assert ids.count(toy_tokenizer.bos_token_id) == 2, "the template's, and none in front of them"
    assert ids.count(toy_tokenizer.eos_token_id) == 1
    assert "".join(found.text[a:b] for a, b in offsets) == found.text


def test_chat_needs_a_template_and_plain_words(toy_tokenizer, monkeypatch):
    with pytest.raises(ConfigError):
        chat_text(toy_tokenizer, "Where?")
    monkeypatch.setattr(toy_tokenizer, "chat_template", CHATML)
    with pytest.raises(Exception, match="special token"):
        chat_text(toy_tokenizer, "Where is <eos> Velmora?")
    monkeypatch.setattr(toy_tokenizer, "chat_template", "{{ messages[0]['content'] | upper }}")
    with pytest.raises(ConfigError):
        chat_text(toy_tokenizer, "Where?")
