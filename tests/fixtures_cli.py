"""Fixtures of the command line: a runner, and everything the commands make. Registered by conftest.py."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(scope="session")
def wb():
    """Return a function that runs `wb ARGS` in this process: exit code, stdout, stderr; no exception comes through."""
    import contextlib
    import io
    from types import SimpleNamespace

    from cli.main import main

    def run(*args: object) -> SimpleNamespace:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(a) for a in args])
        return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())

    return run


@pytest.fixture(scope="session")
def wb_files(tmp_path_factory: pytest.TempPathFactory, wb, world_entities, world_templates, world_documents):
    """Everything the commands make on a corner of the shipped world: paths by name, `json` by command, `forget`."""
    from types import SimpleNamespace

    from features.entities.entities import save_entities

    here = tmp_path_factory.mktemp("wb")
    paths = {
        name: here / file
        for name, file in {
            "entities": "entities.jsonl",
            "templates": "templates.json",
            "text": "corpus.jsonl",
            "acts": "acts.h5",
            "sae": "sae",
            "labels": "labels.jsonl",
            "latents": "latents.h5",
            "unlearned": "unlearned",
            "audit": "audit",
        }.items()
    }
    save_entities(world_entities, paths["entities"])
    t = world_templates
    form = {
        kind: {
            "mention": t.mention[kind],
            **{a: {"ask": texts, "heldout": t.heldout[kind][a]} for a, texts in t.ask[kind].items()},
        }
        for kind in t.ask
    }
    paths["templates"].write_text(json.dumps(form), encoding="utf-8")
    lines = [json.dumps({"text": d.text}) + "\n" for d in world_documents[:500]]
    paths["text"].write_text("".join(lines), encoding="utf-8")
    forget = [e.name for e in world_entities if e.seen == "facts" and e.type == "person"][:2]
    model = ("--model", "fact-world")
    asked = ("--templates", paths["templates"])
    mined = ("--sae", paths["sae"], "--latents", paths["latents"], "--labels", paths["labels"], *asked)
    names = ("--forget", forget[0], "--forget", forget[1])
    commands = {
        "cache-activations": (*model, "--text", paths["text"], "--hook-point", "layers.1", "--hook-point")
        + ("blocks.2.hook_resid_post", "--entities", paths["entities"], *asked, "--frac-entity-rows", 0.1)
        + ("--ctx-len", 64, "--max-tokens", 4000, "--batch-size", 128, "--out", paths["acts"]),
        "inspect": (paths["acts"], "--verify"),
        "train-sae": ("--activations", paths["acts"], "--hook-point", "layers.2", "--k", 8, "--expansion", 2)
        + ("--tokens", 60_000, "--batch-size", 512, "--lr", 2e-3, "--frac-holdout", 0.1, "--out", paths["sae"]),
        "eval-sae": ("--sae", paths["sae"], "--activations", paths["acts"], "--frac-holdout", 0.1),
        "label-entities": (*model, "--entities", paths["entities"], *asked, "--out", paths["labels"]),
        "find-entity-latents": (*model, "--sae", paths["sae"], "--labels", paths["labels"], *asked)
        + ("--activations", paths["acts"], "--max-general-rate", 1, "--gate-entities", 4, "--gate-questions", 1)
        + ("--out", paths["latents"]),
        "unlearn": (
            *model,
            *mined,
            *names,
            "--text",
            paths["text"],
            "--steps",
            3,
            "--batch-size",
            8,
            "--warmup-steps",
            1,
        )
        + ("--out", paths["unlearned"]),
        "audit": (*model, "--unlearned", paths["unlearned"], *mined, *names, "--text", paths["text"])
        + ("--max-retain", 4, "--n-neighbours", 2, "--control-draws", 2, "--max-blocks", 1, "--out", paths["audit"])
        + (
            "--quick",
            "--max-attacked",
            2,
            "--skip",
            "relearn",
            "--skip",
            "same-form",
            "--skip",
            "prompts",
            "--skip",
            "prune",
            "--skip",
            "finetune",
            "--skip",
            "sae-fit",
            "--skip",
            "steer-back",
        ),
    }
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("features.stats.probe.N_BOOTSTRAP", 50)  # what is tested here is no interval
        for name, words in commands.items():
            outcome = wb(name, *words, "--json")
            assert outcome.code == 0, f"wb {name}: {outcome.err}"
            found[name] = json.loads(outcome.out)
    return SimpleNamespace(**paths, here=here, json=found, commands=commands, names=forget)
