"""TOFU's figures against values computed another way: transformers' own loss and generation, loops, and scipy."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import hmean, ks_2samp

from features.entities.prompts import questions
from sae_train.errors import ConfigError, FileFormatError, OutputExistsError
from sae_train.run.progress import silent
from unlearn import tofu_metrics
from unlearn.tofu.prompting import Prompting
from unlearn.tofu.rows import read_qa_rows

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOKENS = 6
FORM = "{question}"  # the questions are those that the model was taught


@pytest.fixture(scope="module")
def tables(world_labels, world_templates, tmp_path_factory) -> dict[str, str]:
    """Return a file for every set: questions about entities of the world, and other entities' answers as wrong ones."""
    folder = tmp_path_factory.mktemp("tofu")
    known = [e for e in world_labels if e.label == "known" and e.facts]
    found = {}
    for index, name in enumerate(("forget", "retain", "real_authors", "world_facts")):
        rows = []
        for i, entity in enumerate(known[5 * index : 5 * index + 5]):
            asked = next(iter(questions(entity, world_templates, heldout=False)))
            attribute, answers = asked.attribute or "", entity.facts[asked.attribute or ""]
            others = [e.facts[attribute][0] for e in known[i + 7 :] if attribute in e.facts][:3]
            row = {"question": asked.text, "answer": answers[0], "perturbed_answer": others}
            if name in ("forget", "retain"):
                row["paraphrased_answer"] = f"it is {answers[0]}"
            rows.append(row)
        path = folder / f"{name}.json"
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        found[name] = str(path)
    return found


def measured(lm, tables, **given):
    return tofu_metrics(lm, **tables, max_new_tokens=TOKENS, batch_size=3, progress=silent, **{"prompt": FORM, **given})


def loss_of(lm, question: str, answer: str) -> float:
    """Return the mean loss of an answer's tokens, by transformers' own loss."""
    front = lm.tokenizer(question)["input_ids"]
    whole = lm.tokenizer(f"{question} {answer}")["input_ids"]
    if whole[-1] != lm.tokenizer.eos_token_id:
        whole = [*whole, lm.tokenizer.eos_token_id]
    labels = [-100] * len(front) + whole[len(front) :]
    with torch.no_grad():
        return float(lm.model(input_ids=torch.tensor([whole]), labels=torch.tensor([labels])).loss)


def said_by(lm, question: str) -> str:
    ids = torch.tensor([lm.tokenizer(question)["input_ids"]])
    out = lm.model.generate(ids, do_sample=False, max_new_tokens=TOKENS, pad_token_id=lm.tokenizer.eos_token_id)
    return lm.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()


def strength_of(lm, question: str, answer: str) -> float:
    """Return the extraction strength by trying every prefix."""
    front = lm.tokenizer(question)["input_ids"]
    answer_ids = lm.tokenizer(f"{question} {answer}")["input_ids"][len(front) :]
    if answer_ids[-1] == lm.tokenizer.eos_token_id:
        answer_ids = answer_ids[:-1]
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([[*front, *answer_ids]])).logits[0]
    greedy = logits[len(front) - 1 : -1].argmax(-1).tolist()
    k = next((k for k in range(len(answer_ids)) if greedy[k:] == answer_ids[k:]), len(answer_ids) - 1)
    return 1 - k / len(answer_ids)


def expected_figures(lm, tables) -> dict[str, float]:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=True)
    found: dict[str, float] = {}
    for name, path in tables.items():
        with open(path, encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        asked = [r["question"] for r in rows]
        true = np.array([loss_of(lm, q, r["answer"]) for q, r in zip(asked, rows, strict=True)])
        other = np.array(
            [loss_of(lm, q, r.get("paraphrased_answer", r["answer"])) for q, r in zip(asked, rows, strict=True)]
        )
        wrong = np.array([[loss_of(lm, q, w) for w in r["perturbed_answer"]] for q, r in zip(asked, rows, strict=True)])
        ratio = np.exp(-wrong.mean(1)) / np.exp(-other)
        odds = np.exp(-true) / (np.exp(-true) + np.exp(-wrong).sum(1))
        plain = name in ("forget", "retain")
        found[f"{name}_probability"] = float(np.mean(np.exp(-true) if plain else odds))
        recalls = [scorer.score(r["answer"], said_by(lm, q))["rougeL"].recall for q, r in zip(asked, rows, strict=True)]
        found[f"{name}_rouge_recall"] = float(np.mean(recalls))
        kept = np.clip(1 - ratio, 0, None)
        found[f"{name}_truth_ratio"] = float(np.mean(np.minimum(ratio, 1 / ratio) if name == "forget" else kept))
        if name == "forget":
            strengths = [strength_of(lm, q, r["answer"]) for q, r in zip(asked, rows, strict=True)]
            found["forget_extraction_strength"] = float(np.mean(strengths))
    parts = ("probability", "rouge_recall", "truth_ratio")
    nine = [found[f"{s}_{p}"] for s in ("retain", "real_authors", "world_facts") for p in parts]
    return {**found, "model_utility": float(hmean(nine))}


def test_every_figure_is_what_other_code_finds(world_lm, tables):
    found = measured(world_lm, tables).figures
    assert found == pytest.approx(expected_figures(world_lm, tables), abs=1e-4)
    assert found["forget_probability"] > 0 and found["model_utility"] > 0


def test_the_forget_quality_is_a_test_between_truth_ratios(world_lm, tables, tmp_path):
    reference = measured(world_lm, tables, out=tmp_path / "reference.json")
    ratios = [row.truth_ratio for row in reference.rows["forget"]]
    again = measured(world_lm, tables, reference=tmp_path / "reference.json")
    assert again.figures["forget_quality"] == pytest.approx(ks_2samp(ratios, ratios).pvalue)
    assert "forget_quality" not in reference.figures
    with pytest.raises(OutputExistsError, match="exists"):
        measured(world_lm, tables, out=tmp_path / "reference.json")


def test_without_wrong_answers_there_is_no_truth_ratio(world_lm, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "Who?", "answer": "Ost"}\n', encoding="utf-8")
    found = measured(world_lm, {"forget": rows}).figures
    assert set(found) == {"forget_probability", "forget_rouge_recall", "forget_extraction_strength"}


def test_a_model_with_a_chat_form_is_asked_in_it(toy_tokenizer, monkeypatch):
    monkeypatch.setattr(toy_tokenizer, "chat_template", CHATML)
    prompting = Prompting.of(toy_tokenizer, None)
    front, back = prompting.answered("Who is it?", "Ada")
    asked = "<|im_start|>user\nWho is it?<|im_end|>\n<|im_start|>assistant\n"
    assert toy_tokenizer.decode([*front, *back]).startswith(toy_tokenizer.decode(front))
    assert front == toy_tokenizer(asked, add_special_tokens=False)["input_ids"]
    assert back[-1] == toy_tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"question": "Who?"}', "question and answer"),
        ('{"question": "Who?", "answer": 3}', "question and answer"),
        ('{"question": "Who?", "answer": "Ada", "perturbed_answer": [1]}', "perturbed_answer"),
        ('{"question": "Who?", "answer": "Ada", "paraphrased_answer": ["x"]}', "paraphrased_answer"),
        ("[1, 2]", "question and answer"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path, row, message):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "Who?", "answer": "Ada"}\n' + row + "\n", encoding="utf-8")
    with pytest.raises(FileFormatError, match=message) as caught:
        read_qa_rows(path, field="forget")
    assert "line 2" in str(caught.value)


def test_prompts_and_references_that_cannot_be_used(world_lm, tables, tmp_path):
    with pytest.raises(ConfigError, match="asks nothing"):
        measured(world_lm, tables, prompt="Answer:")
    with pytest.raises(ConfigError, match="no chat form"):
        measured(world_lm, tables, prompt="chat")
    with pytest.raises(ConfigError, match="no tokens of its own"):
        Prompting.of(world_lm.tokenizer, "{question} is ").answered("Here", "Uganda")
    (tmp_path / "other.json").write_text('{"rows": {"forget": [{"truth_ratio": 1.0}]}}', encoding="utf-8")
    with pytest.raises(FileFormatError, match="another forget set"):
        measured(world_lm, tables, reference=tmp_path / "other.json")
    (tmp_path / "other.json").write_text('{"rows": []}', encoding="utf-8")
    with pytest.raises(FileFormatError, match="no truth ratios"):
        measured(world_lm, tables, reference=tmp_path / "other.json")


def test_probabilities_are_geometric_means(world_lm, tables):
    score = measured(world_lm, {"forget": tables["forget"]}).rows["forget"][0]
    with open(tables["forget"], encoding="utf-8") as file:
        row = json.loads(next(file))
    assert score.probability == pytest.approx(math.exp(-loss_of(world_lm, row["question"], row["answer"])), abs=1e-5)
