"""Tasks of lm-eval inside an audit: a local task without network, and what cannot be run."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from features.entities.prompts import questions
from sae_train.errors import ConfigError, InputError, MissingFileError
from sae_train.lm.generate import continuation_log_probs
from unlearn.auditing.evaluations import benchmarks
from unlearn.auditing.evaluations.benchmarks import INSTALL, check_tasks, evaluate_benchmarks
from unlearn.auditing.request import Request
from unlearn.auditing.roles import make_context
from unlearn.config import AuditConfig

TASK = """
task: who_lives_where
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {cache}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{options}}}}"
doc_to_target: truth
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


def context_of(world_lm, world_labels, world_templates, world_targets, **settings):
    request = Request(world_labels, world_templates, world_targets)
    return make_context(world_lm, world_lm, request, AuditConfig(n_neighbours=1, max_retain=4, **settings))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of lm-eval and what it brings
def test_a_local_task_agrees_with_our_own_scoring(world_lm, world_labels, world_templates, world_targets, tmp_path):
    pytest.importorskip("lm_eval", reason=f"lm-eval is optional: {INSTALL}")
    asked = [e for e in world_labels if e.type == "person" and e.label == "known"][:6]
    prompts = [next(p for p in questions(e, world_templates, heldout=True) if p.attribute == "job") for e in asked]
    options = list(dict.fromkeys(e.facts["job"][0] for e in asked))
    rows = [
        {"question": p.text, "options": options, "truth": (options.index(e.facts["job"][0]) + shift) % len(options)}
        for p, e, shift in zip(prompts, asked, (0, 0, 0, 0, 1, 1), strict=True)  # two have a wrong key
    ]
    data, task = tmp_path / "rows.json", tmp_path / "task.yaml"
    data.write_text("\n".join(map(json.dumps, rows)))
    task.write_text(TASK.format(data=data, cache=tmp_path / "cache"))
    context = context_of(world_lm, world_labels, world_templates, world_targets, lm_eval=(str(task),))
    state, pad = torch.get_rng_state(), world_lm.tokenizer.pad_token
    found = evaluate_benchmarks(context).lm_eval["who_lives_where"]
    assert torch.equal(torch.get_rng_state(), state) and world_lm.tokenizer.pad_token == pad
    right = 0
    for row in rows:
        scores = continuation_log_probs(world_lm, [row["question"]] * len(options), [f" {o}" for o in options])
        right += max(range(len(options)), key=scores.__getitem__) == row["truth"]
    assert found.n == 6
    accuracy = found.metrics["acc"]
    assert accuracy.before == accuracy.after == pytest.approx(right / 6, abs=1e-6)
    assert 0 < right < 6
    fewer = replace(context, config=replace(context.config, lm_eval_limit=2))
    assert evaluate_benchmarks(fewer).lm_eval["who_lives_where"].n == 2


def test_what_cannot_be_run_is_refused_before_anything_is(monkeypatch, tmp_path):
    check_tasks(())
    monkeypatch.setattr(benchmarks, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        check_tasks(("hellaswag",))
    assert caught.value.try_ == INSTALL and "hellaswag (lm_eval)" in str(caught.value)
    monkeypatch.setattr(benchmarks, "find_spec", lambda name: "there")
    with pytest.raises(MissingFileError):
        check_tasks((str(tmp_path / "none.yaml"),))
    with pytest.raises(InputError):
        AuditConfig(lm_eval_limit=0)


@pytest.mark.slow
def test_an_unknown_task_is_refused():
    pytest.importorskip("lm_eval", reason=f"lm-eval is optional: {INSTALL}")
    with pytest.raises(ConfigError, match="no task 'helaswag'"):
        check_tasks(("helaswag",))


def test_without_tasks_nothing_is_measured(world_lm, world_labels, world_templates, world_targets):
    assert evaluate_benchmarks(context_of(world_lm, world_labels, world_templates, world_targets)) is None
