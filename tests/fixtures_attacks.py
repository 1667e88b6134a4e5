"""Fixtures for attacks: a model that was only silenced, and one that never knew. Registered by conftest.py.

Silenced: the shipped world's model, tuned until it says "unknown" about six targets. Never known: the same model asked
about six names that are not in its corpus, with facts that nobody stated.
"""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def attacked_world(world_labels, world_templates, world_targets, world_documents, world_analysis, world_sae):
    """The request to audit the removal of six targets."""
    from unlearn.auditing.request import Request

    return Request(
        world_labels,
        world_templates,
        world_targets,
        hook_point="layers.2",
        analysis=world_analysis,
        saes=[world_sae],
        documents=world_documents[:200],
        text_name="corpus",
    )


@pytest.fixture(scope="session")
def silence():
    """Return the function that silences a model."""
    return _silence


def _silence(lm, lessons, targets, templates, *, block=-1, boxes=None):
    """Return a copy of a model of which one block was tuned until it answers nothing about the targets any more.

    No longer than that, and nothing in the other blocks: with the last one, all knowledge stays where it is; with the
    first one, it stays behind a key that no name turns any more. With `boxes`, by parameter name the least and the
    largest value of every weight, these matrices are tuned instead, and inside them only.
    """
    import copy
    from dataclasses import replace

    import numpy as np
    import torch

    from features.labels.knowledge import ask, recall
    from unlearn.auditing.attacks.relearn import Teacher

    student = replace(lm, model=copy.deepcopy(lm.model))
    teacher = Teacher(student, 1e-3)
    own = dict(student.model.named_parameters())
    teacher.parameters = list(student.model.get_submodule(student.architecture.blocks[block].path).parameters())
    if boxes is not None:
        teacher.parameters = [own[name] for name in boxes]
    teacher.optimizer = torch.optim.AdamW(teacher.parameters, lr=1e-3, weight_decay=0.0)
    for step in range(60):
        picked = np.random.default_rng(step).permutation(len(lessons))[:32]
        teacher.step([lessons[i] for i in picked])
        with torch.no_grad():
            for name, (low, high) in (boxes or {}).items():
                own[name].clamp_(low, high)
        if step % 5 == 4 and recall(ask(student, targets, templates, heldout=True)) == 0:
            break
    return student


@pytest.fixture(scope="session")
def silencing_lessons(world_lm, attacked_world):
    """Prompts and answers: "unknown" about the targets, and still the truth about others."""
    from features.entities.prompts import questions
    from sae_train.lm.generate import encode_prompts
    from sae_train.text.tokens import encode_plain

    targets = [e for e in attacked_world.labels if e.key in attacked_world.names]
    others = [e for e in attacked_world.labels if e.label == "known" and e.key not in attacked_world.names]
    pairs = [
        (prompt.text, " unknown" if entity in targets else f" {entity.facts[prompt.attribute or ''][0]}")
        for entity in [*targets * 3, *others]
        for heldout in (False, True)
        for prompt in questions(entity, attacked_world.templates, heldout=heldout)
    ]
    back = encode_plain(world_lm.tokenizer, [answer for _, answer in pairs])[0]
    return list(zip(encode_prompts(world_lm, [prompt for prompt, _ in pairs]), back, strict=True))


@pytest.fixture(scope="session")
def silenced(world_lm, attacked_world, silencing_lessons):
    """Says "unknown" about the targets: the last block does."""
    targets = [e for e in attacked_world.labels if e.key in attacked_world.names]
    return _silence(world_lm, silencing_lessons, targets, attacked_world.templates)


@pytest.fixture(scope="session")
def hushed(world_lm, silenced, attacked_world):
    """An audit's context: the original model, and the silenced one."""
    from unlearn.auditing.roles import make_context
    from unlearn.config import AuditConfig

    few = {"n_neighbours": 3, "max_retain": 8, "control_draws": 4, "permutations": 99, "max_blocks": 2}
    config = AuditConfig(attack_steps=(20,), attack_lrs=(1e-3,), **few)
    return make_context(world_lm, silenced, attacked_world, config)


@pytest.fixture(scope="session")
def innocent(world_lm, hushed):
    """The same with names that nobody ever knew in the place of the targets."""
    from dataclasses import replace

    strangers = [replace(e, label="known") for e in hushed.control]
    keys = {e.key for e in strangers}
    rest = [e for e in hushed.unknown if e.key not in keys]
    control = [replace(r, facts=s.facts) for s in strangers for r in rest if r.type == s.type]
    control = list({e.key: e for e in control}.values())[:6]
    return replace(hushed, after=world_lm, forget=strangers, control=control, unknown=rest, answers={}, acts={})
