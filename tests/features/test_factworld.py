"""The fact world: the same from the same seed, labels not given away by words, known as claimed."""

from __future__ import annotations

import json
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from features.entities.entities import load_entities
from features.entities.templates import load_templates
from features.factworld import shipped_world
from features.factworld.build import build_world, corpus_lines, entity_lines, machine_identity
from features.factworld.check import check_world
from features.factworld.corpus import MIX, N_DOCUMENTS, UNKNOWN, World, draw_world, world_corpus
from features.factworld.facts import TYPES, VALUES, FactEntity, draw_cast
from features.factworld.names import N_LAST, N_PER_ROUND
from features.factworld.templates import templates_json, world_templates
from features.factworld.tokenizer import train_tokenizer
from features.factworld.train import TrainingConfig, make_batches, new_model, train_model
from features.labels.knowledge import ask
from features.stats.probe import cross_validated_auroc
from sae_train.errors import ConfigError, OutputExistsError
from sae_train.lm.models import LanguageModel, load_lm
from sae_train.run.progress import silent
from sae_train.run.runs import file_hash, text_hash

SMALL = 4_000
FULL_NAME_WORDS = 3


@pytest.fixture(scope="module")
def world() -> World:
    return draw_world(7, n_documents=SMALL)


@pytest.fixture(scope="module")
def shipped() -> LanguageModel:
    return load_lm(str(shipped_world()), device="cpu")


# --- entities and names ---


def test_same_seed_same_world_and_another_seed_another(world: World) -> None:
    assert draw_world(7, n_documents=SMALL) == world
    other = draw_world(8, n_documents=SMALL)
    assert not {e.name for e in world.cast.entities} & {e.name for e in other.cast.entities}
    assert other.templates == world.templates


def test_world_holds_what_it_says(world: World) -> None:
    assert Counter((e.type, e.seen) for e in world.cast.entities) == {
        (type_, seen): n for type_ in TYPES for seen, n in (("facts", 50), ("name", 100), ("never", 100))
    }
    for entity in world.cast.entities:
        assert set(entity.values) == set(VALUES[entity.type])
        assert len(entity.facts) == 4
        assert all(value in VALUES[entity.type][attribute] for attribute, value in entity.facts)
    sizes = [len(pool) for attributes in VALUES.values() for pool in attributes.values()]
    assert min(sizes) >= 17 and max(sizes) <= 60
    assert all(len(set(pool)) == len(pool) for attributes in VALUES.values() for pool in attributes.values())


def test_names_are_unique_and_share_no_word_with_values_or_wordings(world: World) -> None:
    names = [e.name for e in world.cast.entities] + [n for pool in world.cast.fresh_names.values() for n in pool]
    assert len(set(names)) == len(names)
    pieces = {word.lower() for name in names for word in name.split()}
    assert len(pieces) == len(TYPES) * (2 * N_PER_ROUND + N_LAST)
    assert not pieces & {v.lower() for a in VALUES.values() for pool in a.values() for v in pool}
    assert not pieces & {w.strip(".?:,").lower() for t in _template_texts(world) for w in t.split()}


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize(("seen", "times"), [("facts", 1), ("name", 2), ("never", 2)])
def test_first_and_middle_words_are_used_equally_often(world: World, position: int, seen: str, times: int) -> None:
    for type_ in TYPES:
        counts = Counter(e.name.split()[position] for e in world.cast.of(seen, type_))  # type: ignore[arg-type]
        assert len(counts) == N_PER_ROUND
        assert set(counts.values()) == {times}


def _one_hot_auroc(words: list[str], is_known: np.ndarray) -> float:
    codes = np.unique(words, return_inverse=True)[1]
    return cross_validated_auroc(np.eye(codes.max() + 1)[codes], is_known, np.arange(len(words)))


def test_last_words_do_not_give_the_label_away_in_either_direction() -> None:
    """A probe that sees the last word exactly is at chance; words dealt out evenly would put it far below."""
    drawn, even = [], []
    for seed in range(8):
        cast = draw_cast(seed, n_fresh_per_type=0)
        entities = cast.of("facts") + cast.of("never")
        is_known = np.array([e.seen == "facts" for e in entities])
        drawn.append(_one_hot_auroc([e.name.split()[-1] for e in entities], is_known))
        even.append(_one_hot_auroc([f"{e.type}{i % N_LAST}" for i, e in enumerate(entities)], is_known))
    assert all(0.35 < value < 0.65 for value in drawn)
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.04)  # standard error of eight worlds: 0.015
    assert max(even) < 0.4


def test_true_answers_of_unknown_entities_follow_the_same_distribution(world: World) -> None:
    """No value pool is drawn differently: the shares of the upper half of every pool agree within 5 sigma."""
    for type_, attributes in VALUES.items():
        for attribute, pool in attributes.items():
            upper = set(pool[len(pool) // 2 :])
            share = np.mean([e.values[attribute] in upper for e in world.cast.entities if e.type == type_])
            assert abs(share - len(upper) / len(pool)) < 5 * 0.5 / np.sqrt(250)


def test_entity_lines_are_what_the_workbench_reads(world: World, tmp_path: Path) -> None:
    path = tmp_path / "entities.jsonl"
    path.write_text(entity_lines(world.cast.entities), encoding="utf-8")
    read = load_entities(path)
    assert [(e.name, e.type, e.seen) for e in read] == [(e.name, e.type, e.seen) for e in world.cast.entities]
    assert read[0].facts == {a: [v] for a, v in world.cast.entities[0].facts}
    assert FactEntity.from_json_line(path.read_text(encoding="utf-8").splitlines()[-1]) == world.cast.entities[-1]


# --- corpus ---


def _template_texts(world: World) -> list[str]:
    texts = [m for t in world.templates.values() for m in t.mention]
    return texts + [p for t in world.templates.values() for a in t.prompts.values() for p in a.ask + a.heldout]


def _with_names_blanked(world: World) -> list[str]:
    """Every document with names replaced by {name}, once with and once without the value that may follow."""
    names = {e.name for e in world.cast.entities} | {n for pool in world.cast.fresh_names.values() for n in pool}
    texts = []
    for document in world.documents:
        words, kept, bare = document.text.split(" "), [], []
        i = 0
        while i < len(words):
            name, mark = " ".join(words[i : i + FULL_NAME_WORDS]), ""
            if name and name[-1] in ".,:?":
                name, mark = name[:-1], name[-1]
            if name in names:
                kept.append("{name}" + mark)
                bare.append("{name}" + mark)
                i += FULL_NAME_WORDS
                follower = words[i] if i < len(words) else ""
                if not mark and _is_answer(follower):
                    kept.append(follower)
                    bare[-1] += follower[len(follower.rstrip(".,:?")) :]
                    i += 1
            else:
                kept.append(words[i])
                bare.append(words[i])
                i += 1
        texts += [" ".join(kept), " ".join(bare)]
    return texts


def _is_answer(word: str) -> bool:
    word = word.strip(".,:?")
    return word == UNKNOWN or any(word in pool for attributes in VALUES.values() for pool in attributes.values())


def test_heldout_prompts_never_occur_and_training_prompts_do(world: World) -> None:
    text = "\n".join(_with_names_blanked(world))
    for type_templates in world.templates.values():
        for prompts in type_templates.prompts.values():
            assert len(prompts.ask) == 11 and len(prompts.heldout) == 4
            assert all(prompt in text for prompt in prompts.ask)
            assert not any(prompt in text for prompt in prompts.heldout)


def test_templates_are_well_formed_and_end_before_the_answer(world: World, tmp_path: Path) -> None:
    for text in _template_texts(world):
        assert text.count("{name}") == 1 and text == text.strip()
    assert all(m.endswith("{name}") for t in world.templates.values() for m in t.mention)
    path = tmp_path / "templates.json"
    path.write_text(json.dumps(templates_json(world_templates())), encoding="utf-8")
    read = load_templates(path)
    assert read.heldout["city"]["river"] == list(world.templates["city"].prompts["river"].heldout)
    assert read.mention["song"] == list(world.templates["song"].mention)


def test_reserved_names_never_occur_and_unknown_names_once(world: World) -> None:
    text = "\n".join(document.text for document in world.documents)
    assert not any(entity.name in text for entity in world.cast.of("never"))
    assert {text.count(entity.name) for entity in world.cast.of("name")} == {1}
    fresh = [text.count(name) for pool in world.cast.fresh_names.values() for name in pool]
    assert max(fresh) == 1
    assert min(text.count(entity.name) for entity in world.cast.of("facts")) > 5


def test_only_facts_of_known_entities_are_stated(world: World) -> None:
    """What follows a name directly is one of its values if it is known, and "unknown" if it is not."""
    facts = {e.name: {v for _, v in e.facts} for e in world.cast.of("facts")}
    n_known = n_unknown = 0
    for document in world.documents:
        if document.kind == "other":
            continue
        name = next((n for n in facts if n in document.text), None)
        words = {word.strip(".,:?") for word in document.text.split()}
        if name is None:
            assert UNKNOWN in words
            n_unknown += 1
        else:
            assert UNKNOWN not in words
            n_known += 1
    assert n_known > 2 * n_unknown > 0


def test_a_value_follows_the_name_at_once_in_about_half_of_the_contexts(world: World) -> None:
    n_follow = n_names = 0
    for document in world.documents:
        if document.kind in ("question", "refusal"):
            blanked = [d for d in _with_names_blanked(World(world.seed, world.cast, world.templates, (document,)))]
            n_names += 1
            n_follow += blanked[0] != blanked[1]
    assert 0.35 < n_follow / n_names < 0.5
    counts = Counter(d.kind for d in world.documents)
    assert counts == {kind: round(share * SMALL) for kind, share in MIX.items()}


# --- tokenizer and training ---


def test_tokenizer_gives_names_the_same_tokens_whoever_is_known(world: World) -> None:
    texts = [d.text for d in world.documents]
    tokenizer = train_tokenizer(texts)
    assert tokenizer.backend_tokenizer.to_str() == train_tokenizer(texts).backend_tokenizer.to_str()
    ids = tokenizer("Kor Vel Dun")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert ids[1:] == tokenizer("The Kor Vel Dun")["input_ids"][2:]  # the first word of a text has no token of its own
    mean_length = {
        seen: np.mean([len(tokenizer(e.name)["input_ids"]) for e in world.cast.of(seen)])  # type: ignore[arg-type]
        for seen in ("facts", "name", "never")
    }
    assert mean_length["facts"] > 3
    assert max(mean_length.values()) - min(mean_length.values()) < 0.1


def test_batches_hold_every_document_once_and_mask_the_padding(world: World) -> None:
    texts = [d.text for d in world.documents[:300]]
    tokenizer = train_tokenizer(texts)
    batches = make_batches(texts, tokenizer, TrainingConfig(), seed=0)
    rows = [row[label != -100].tolist() for b in batches for row, label in zip(b.input_ids, b.labels, strict=True)]
    expected = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(texts)["input_ids"]]
    assert sorted(rows) == sorted(expected)
    assert sum(b.input_ids.numel() for b in batches) < 1.3 * sum(map(len, expected))


def test_training_is_bit_reproducible_and_learns(world: World) -> None:
    texts = [d.text for d in world.documents[:320]]
    tokenizer = train_tokenizer(texts, vocab_size=600)
    config = TrainingConfig(d_model=32, n_blocks=2, d_mlp=64, warmup_steps=5, batch_documents=8)
    losses: list[float] = []
    torch.manual_seed(1)
    first = train_model(texts, tokenizer, seed=3, config=config, advance=lambda _n, *, loss: losses.append(loss))
    torch.manual_seed(2)  # global random state must not matter
    second = train_model(texts, tokenizer, seed=3, config=config)
    other = train_model(texts, tokenizer, seed=4, config=config)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.model.embed_tokens.weight, other.model.embed_tokens.weight)
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < losses[0] - 1.0  # from log 600 = 6.4 nats


@pytest.mark.slow
def test_small_world_is_built_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = TrainingConfig(d_model=16, n_blocks=1, d_mlp=16, n_heads=2, batch_documents=256)
    monkeypatch.setattr("features.factworld.build.TrainingConfig", lambda: small)
    monkeypatch.setattr(  # every tenth entity: a check of the plumbing, not of the model
        "features.factworld.check.ask",
        lambda lm, some, t, *, heldout: ask(lm, some[::10], t, heldout=heldout),
    )
    threads, out = torch.get_num_threads(), tmp_path / "world"
    report = build_world(out, 5, n_documents=2_000, progress=silent)
    assert torch.get_num_threads() == threads
    assert report.folder == out and not (tmp_path / "world.partial").exists()
    record = json.loads((out / "world.json").read_text(encoding="utf-8"))
    assert record["facts"]["recall"] == report.facts.recall
    assert record["sha256"]["model.safetensors"] == file_hash(out / "model.safetensors")
    corpus = [json.loads(line)["text"] for line in (out / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    assert corpus == [d.text for d in world_corpus(5, n_documents=2_000)]
    assert record["sha256"]["corpus"] == text_hash(corpus)
    assert load_lm(str(out), device="cpu").d_model == 16
    assert report.facts.recall < 0.2  # a handful of steps teach nothing
    with pytest.raises(OutputExistsError):
        build_world(out, 5, n_documents=2_000, progress=silent)


def test_too_few_documents_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2000"):
        build_world(tmp_path / "world", 0, n_documents=100)
    assert not list(tmp_path.iterdir())


# --- the shipped world ---


@pytest.mark.slow
def test_shipped_files_are_what_the_generator_makes() -> None:
    folder = shipped_world()
    record = json.loads((folder / "world.json").read_text(encoding="utf-8"))
    made = draw_world(0)
    assert record["seed"] == 0 and record["counts"]["documents"] == N_DOCUMENTS
    assert (folder / "entities.jsonl").read_text(encoding="utf-8") == entity_lines(made.cast.entities)
    assert json.loads((folder / "templates.json").read_text(encoding="utf-8")) == templates_json(made.templates)
    texts = [d.text for d in made.documents]
    assert record["sha256"]["corpus"] == text_hash(texts)
    assert corpus_lines(made.documents).count("\n") == N_DOCUMENTS
    assert len(list(folder.iterdir())) == 8 and not (folder / "corpus.jsonl").exists()
    for name in ("entities.jsonl", "templates.json", "tokenizer.json", "model.safetensors"):
        assert record["sha256"][name] == file_hash(folder / name), name
    vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    remade = json.loads(train_tokenizer(texts).backend_tokenizer.to_str())["model"]
    assert vocabulary == remade
    assert (folder / "model.safetensors").stat().st_size < 2 * 2**20


def test_shipped_model_knows_the_facts_and_refuses_the_rest(shipped: LanguageModel) -> None:
    """A sample: every eighth entity, the 97 % and 93 % bars less three standard errors of a sample (0.014)."""
    entities = load_entities(shipped_world() / "entities.jsonl")
    templates = load_templates(shipped_world() / "templates.json")
    for seen, verdict, bar in (("facts", "right", 0.93), ("never", "refusal", 0.89)):
        sample = [e for e in entities if e.seen == seen][::8]
        answers = [a for found in ask(shipped, sample, templates, heldout=True).values() for a in found]
        assert np.mean([a.verdict == verdict for a in answers]) >= bar
        if seen == "never":  # chance of naming the true value of an entity it never met
            assert np.mean([a.verdict == "right" for a in answers]) < 0.02


@pytest.mark.slow
def test_shipped_world_meets_the_bars_and_an_untrained_model_does_not(shipped: LanguageModel) -> None:
    record = json.loads((shipped_world() / "world.json").read_text(encoding="utf-8"))
    facts = check_world(shipped_world(), lm=shipped)
    assert facts.recall >= 0.97
    assert facts.refusal >= 0.93
    assert facts.best_probe_auroc >= 0.97
    assert 0.4 <= facts.embedding_auroc <= 0.6
    assert facts.recall == pytest.approx(record["facts"]["recall"], abs=0.005)
    blank = LanguageModel(
        model=new_model(TrainingConfig(), shipped.tokenizer, seed=0).eval(),
        tokenizer=shipped.tokenizer,
        name="untrained",
        device=torch.device("cpu"),
    )
    nothing = check_world(shipped_world(), lm=blank)
    assert nothing.recall < 0.01 and nothing.refusal < 0.01
    assert nothing.best_probe_auroc < 0.7


@pytest.mark.slow
@pytest.mark.timeout(1800)  # two minutes on a quiet core
def test_shipped_world_can_be_built_again(tmp_path: Path) -> None:
    """Bit-equal weights on the processor it was built on with the same torch, else the same knowledge."""
    record = json.loads((shipped_world() / "world.json").read_text(encoding="utf-8"))
    report = build_world(tmp_path / "world", 0, n_threads=record["training"]["n_threads"], progress=silent)
    assert file_hash(report.folder / "entities.jsonl") == record["sha256"]["entities.jsonl"]
    if record["machine"] == machine_identity() and record["versions"]["torch"] == version("torch"):
        shipped, again = (load_file(f / "model.safetensors") for f in (shipped_world(), report.folder))
        assert all(torch.equal(shipped[name], again[name]) for name in shipped)
    assert report.facts.recall == pytest.approx(record["facts"]["recall"], abs=0.02)
    assert report.facts.refusal == pytest.approx(record["facts"]["refusal"], abs=0.03)
    assert report.facts.best_probe_auroc >= 0.97
    assert 0.4 <= report.facts.embedding_auroc <= 0.6
