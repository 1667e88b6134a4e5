"""The loop's options: adapters, accumulation, autocast, several processes, early stopping, removals in sequence."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch

from features.factworld import shipped_world
from features.labels.knowledge import ask, recall
from sae_train.errors import ConfigError, EntityError, FileFormatError, NoChangeError, UnreachedError
from sae_train.lm.adapters import adapter_change, attach_adapter, is_adapter, merge_adapter
from sae_train.lm.hooks import captured
from sae_train.lm.models import load_lm, save_lm, weights_hash
from sae_train.run.threads import torch_threads
from unlearn.config import configure
from unlearn.finetuning.finetune import TuneState, trainable_parameters, tune_step
from unlearn.finetuning.validation import hold_apart, rank_first, standing
from unlearn.losses.retention import MASSIVE, Retention
from unlearn.methods.redirect import Redirect
from unlearn.problem.data import split_sets
from unlearn.removals.original import find_original
from unlearn.removals.record import RemovalRecord
from unlearn.removals.run import RemovalTask, prepare, run_removal

QUICK = {"batch_size": 4, "warmup_steps": 1, "steps": 3, "lr": 2e-3}


@pytest.fixture
def run(world_sae, world_analysis, world_labels, world_templates, world_targets, world_documents, tmp_path):
    """Return a function that unlearns on a fresh copy of the shipped model, `idk` unless told otherwise."""

    def start(out: str = "out", names=None, *, model=None, method="idk", documents=None, **settings):
        more = {k: settings.pop(k) for k in ("earlier", "chain", "original") if k in settings}
        how = {k: settings.pop(k) for k in ("resume", "advance") if k in settings}
        task = RemovalTask(
            load_lm(model or str(shipped_world()), device="cpu"),
            [world_sae],
            world_analysis,
            world_labels,
            world_templates,
            names or world_targets,
            configure(method, **{**QUICK, **settings}),
            documents=world_documents[:40] if documents is None else documents,
            **more,
        )
        found = run_removal(task, tmp_path / f"{out}.run", **how)
        found.save(tmp_path / out)
        shutil.rmtree(found.run_folder)
        return found.lm, found.result

    return start


@pytest.fixture
def two_threads():
    """Give torch two threads, whatever the tests run with."""
    with torch_threads(2):
        yield


@pytest.fixture
def split(world_lm, world_labels, world_templates, world_analysis):
    """Return a function that sorts the labelled entities into roles: `split(targets, earlier=…)`."""

    def start(names, *, frac_retain=0.75, earlier=None):
        words = {"frac_retain": frac_retain, "seed": 0, "earlier": earlier or {}}
        return split_sets(world_lm, world_labels, world_templates, world_analysis, names, **words)

    return start


recorded = RemovalRecord.read


def same_weights(a, b, *, rel: float = 0.0) -> bool:
    """Compare two models, in the largest weight."""
    pairs = zip(a.model.state_dict().values(), b.model.state_dict().values(), strict=True)
    return all(torch.allclose(x, y, rtol=rel, atol=rel * float(y.abs().max())) for x, y in pairs)


# --------------------------------------------------------------------------------------------- adapters


def test_an_adapter_is_saved_loads_back_and_leaves_its_base_alone(run, tmp_path, world_lm):
    base = load_lm(str(shipped_world()), device="cpu")
    lm, result = run(train="lora", lr=1e-2)
    assert result["is_adapter"] and result["changed_parameters"] > 0
    assert is_adapter(tmp_path / "out")
    assert {"adapter_model.safetensors", "adapter_config.json", "unlearning.json"} <= set(os.listdir(tmp_path / "out"))
    loaded = load_lm(str(tmp_path / "out"), device="cpu")
    record = json.loads((tmp_path / "out" / "unlearning.json").read_text())
    assert weights_hash(loaded.model) == weights_hash(lm.model) == record["model_hash"]
    assert weights_hash(loaded.model) != weights_hash(world_lm.model)
    assert weights_hash(base.model) == weights_hash(load_lm(str(shipped_world()), device="cpu").model)
    assert not [n for n, _ in loaded.model.named_parameters() if "lora" in n], "hooks and audits see a plain model"


def test_an_adapter_on_another_base_is_refused(run, tmp_path, tiny_llama_dir):
    run(train="lora", lr=1e-2, steps=1)
    with pytest.raises(FileFormatError, match="another model"):
        load_lm(str(tmp_path / "out"), device="cpu", base=str(tiny_llama_dir))


def test_a_merged_adapter_is_a_whole_model(run, tmp_path):
    lm, result = run(train="lora", lr=1e-2, steps=2, merge=True)
    assert not result["is_adapter"]
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert same_weights(load_lm(str(tmp_path / "out"), device="cpu"), lm)


def test_an_adapter_whose_lora_b_stayed_zero_is_an_error(run, tmp_path):
    with pytest.raises(NoChangeError):
        run(train="lora", lr=1e-30)
    assert not (tmp_path / "out").exists()


def test_adapter_change_is_that_of_the_merged_weights(tiny_llama_dir):
    lm, before = load_lm(str(tiny_llama_dir), device="cpu"), load_lm(str(tiny_llama_dir), device="cpu")
    adapter = attach_adapter(lm.model, rank=2, alpha=4, seed=0)
    assert adapter_change(lm.model) == (0, 0.0)
    with torch.no_grad():
        for name, parameter in lm.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    _, share = adapter_change(lm.model)
    merge_adapter(adapter)
    old, new = before.model.state_dict(), lm.model.state_dict()
    linear = [n for n in old if n.endswith("proj.weight")]
    moved = sum(float((new[n] - old[n]).square().sum()) for n in linear)
    assert share == pytest.approx((moved / sum(float(old[n].square().sum()) for n in linear)) ** 0.5, rel=1e-4)


def test_closed_form_and_adapters_exclude_each_other():
    with pytest.raises(ConfigError):
        configure("redirect-closed-form", train="lora")


HELD_TWICE = {"full": 0.5, "down_proj": 0.05, "lora": 0.0}  # at least, or nothing: of the shipped model's parameters


@pytest.mark.parametrize(
    ("method", "settings"),
    [("idk", {"train": t}) for t in HELD_TWICE] + [("redirect-closed-form", {"train": "down_proj"})],
)
def test_what_cannot_change_is_held_once_and_what_changes_is_a_copy(
    method, settings, world_sae, world_analysis, world_labels, world_templates, world_targets, world_documents, tmp_path
):
    lm, quick = load_lm(str(shipped_world()), device="cpu"), QUICK if method == "idk" else {}
    config = configure(method, **{**quick, **settings, "merge": settings["train"] == "lora"})
    before = weights_hash(lm.model)
    documents = world_documents[:40]
    task = RemovalTask(lm, [world_sae], world_analysis, world_labels, world_templates, world_targets, config, documents)
    ours = {p.data_ptr() for p in lm.model.parameters()}
    copied = [p.numel() for p in prepare(task).problem.lm.model.parameters() if p.data_ptr() not in ours]
    least = 0.5 if method != "idk" else HELD_TWICE[settings["train"]]
    share = sum(copied) / sum(p.numel() for p in lm.model.parameters())
    assert share == 0 if least == 0 else least < share < 1, share
    found = run_removal(task, tmp_path / "run")
    assert weights_hash(lm.model) == before != weights_hash(found.lm.model)


class Interrupted(Exception):
    """What stands for Ctrl-C."""


@pytest.mark.slow
def test_an_adapter_resumes_exactly(run):
    settings = {"train": "lora", "lr": 1e-2, "steps": 4, "save_every": 2, "merge": True}
    straight, _ = run("straight", **settings)

    seen = []

    def stop(n=1, /, *, earlier=0, **terms):
        seen.append(n)
        if len(seen) == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        run("broken", advance=stop, **settings)
    resumed, _ = run("broken", resume=True, **settings)
    assert same_weights(resumed, straight)


def test_the_step_size_falls_with_the_width_unless_it_is_given():
    assert configure("redirect").step_size(96) == 3e-3
    assert configure("redirect").step_size(576) == pytest.approx(5e-4)
    assert configure("npo").step_size(192) == pytest.approx(2.5e-4)
    assert configure("redirect", lr=1e-2).step_size(576) == 1e-2


# --------------------------------------------------------------------------------------------- batches


def test_accumulated_batches_are_the_mean_of_their_losses(world_problem, whole_loss):
    """Two batches in one step: the gradient is the mean of the gradients of batches 2 s and 2 s + 1."""
    from unlearn.methods import build_method

    problem = world_problem(method="idk", accumulate=2)
    objective = build_method(problem)
    parameters = trainable_parameters(problem.lm.model, "down_proj")
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    state = TuneState(parameters, torch.optim.AdamW(parameters.values(), lr=0.0), lr=1e-3, step=3)
    losses = [whole_loss(objective, batch).loss for batch in (6, 7)]
    expected = torch.autograd.grad(sum(losses) / 2, list(parameters.values()))
    norm = torch.stack([g.square().sum() for g in expected]).sum().sqrt().clamp_min(1.0)
    terms = tune_step(state, objective, problem.config, problem.lm.device)
    for parameter, gradient in zip(parameters.values(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient / norm, atol=1e-5)
    assert float(terms["loss"]) == pytest.approx(float(sum(losses).detach()) / 2, rel=1e-5)


def test_massive_activations_do_not_drown_the_others(world_problem):
    """Of a token with a squared norm of 40,000 variances a change counts 1/400; of all others it counts as it is."""
    retention = Retention(world_problem())
    variance = retention.variance["layers.1"]
    before = torch.zeros(2, 3)
    before[0, 0], before[1, 0] = 200 * variance**0.5, 9 * variance**0.5
    for row, weight in ((0, 1 / 400), (1, 1.0)):
        after = before.clone()
        after[row, 1] += 3 * variance**0.5
        assert float(retention._moved("layers.1", after, before).mean()) == pytest.approx(weight * 9 / 2, rel=1e-4)
    ids = torch.tensor(retention.known[0])[None]
    with captured(retention.problem.original, retention.names) as found:
        retention.problem.original(input_ids=ids, use_cache=False)
    longest = max(float(found[n].square().sum(-1).max()) / retention.variance[n] for n in retention.names)
    assert longest < MASSIVE, "the fact world has none: there it is the plain distance"


@pytest.mark.slow
def test_parts_side_by_side_give_the_same_weights_to_the_last_bit(run, two_threads):
    together, _ = run("together", method="redirect")
    torch.set_num_threads(1)
    alone, _ = run("alone", method="redirect")
    assert weights_hash(together.model) == weights_hash(alone.model)


def test_modules_beside_share_every_tensor_and_no_hook(world_problem):
    problem = world_problem()
    other = problem.beside()
    assert other.original is other.reference and other.lm.model is not problem.lm.model
    for a, b in zip(problem.lm.model.parameters(), other.lm.model.parameters(), strict=True):
        assert a is b
    ids = torch.tensor([[0, 5, 6]])
    with captured(problem.lm.model, ["layers.0"]) as found:
        other.lm.model(input_ids=ids, use_cache=False)
        assert not found
        problem.lm.model(input_ids=ids, use_cache=False)
    assert set(found) == {"layers.0"}


@pytest.mark.slow
def test_autocast_ends_near_float32(run):
    exact, _ = run("exact", steps=2)
    rough, _ = run("rough", steps=2, autocast=True)
    assert next(rough.model.parameters()).dtype == torch.float32
    assert not same_weights(exact, rough)
    assert same_weights(exact, rough, rel=0.05)


@pytest.mark.slow
def test_two_processes_do_what_one_does_with_twice_the_batches(wb_files, tmp_path):
    """`torchrun` with gloo against one process that accumulates two batches: the same weights."""
    words = [str(w) for w in wb_files.commands["unlearn"]]
    at = words.index("--out") if "--out" in words else len(words)
    words[at : at + 2] = []
    settings = ["--method", "idk", "--steps", "3", "--batch-size", "4", "--warmup-steps", "1", "--device", "cpu"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = "from cli.main import main; main()"
    one = [sys.executable, "-c", command, "unlearn", *words, *settings, "--accumulate", "2", "--out", tmp_path / "one"]
    subprocess.run([str(w) for w in one], check=True, timeout=300)
    processes = []
    for rank in range(2):
        environment = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        two = [sys.executable, "-c", command, "unlearn", *words, *settings, "--out", tmp_path / "two"]
        processes.append(subprocess.Popen([str(w) for w in two], env=environment))
    assert [p.wait(timeout=300) for p in processes] == [0, 0]
    one_lm, two_lm = (load_lm(str(tmp_path / n), device="cpu") for n in ("one", "two"))
    assert same_weights(one_lm, two_lm, rel=1e-3)
    assert not same_weights(one_lm, load_lm(str(shipped_world()), device="cpu"), rel=1e-6)


# --------------------------------------------------------------------------------------------- early stopping


def test_validation_wordings_are_in_neither_training_nor_audit(world_templates):
    training, validation = hold_apart(world_templates)
    for kind, attributes in validation.heldout.items():
        for attribute, held in attributes.items():
            assert len(held) == 1
            assert held[0] in world_templates.ask[kind][attribute]
            assert held[0] not in training.ask[kind][attribute]
            assert held[0] not in world_templates.heldout[kind][attribute]


def test_standing_of_a_model_that_knows(world_lm, world_labels, world_targets, world_templates):
    targets = [e for e in world_labels if e.key in world_targets]
    known = [e for e in world_labels if e.label == "known" and e not in targets]
    found = standing(world_lm, targets, known[:5], known, hold_apart(world_templates)[1])
    assert found.recall > 0.8 and found.kept > 0.8 and found.rank_first > 0.8
    never = [e for e in world_labels if e.seen == "never"][:6]
    assert rank_first(world_lm, never, known, hold_apart(world_templates)[1]) < 0.6, "negative control"


def test_a_target_out_of_reach_is_an_error_with_the_figures(run, tmp_path):
    with pytest.raises(UnreachedError) as caught:
        run(stop_early=True, steps=1, lr=1e-5)
    assert "->" in str(caught.value.got)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_stops_as_soon_as_the_targets_pass(run, tmp_path):
    """Every other entity is retained: of so small a world an unretained one pays for what its like forget."""
    words = {"steps": 400, "check_every": 10, "batch_size": 8, "lr": 1e-3, "frac_retain": 1.0}
    _, result = run(method="npo", stop_early=True, **words)
    assert result["steps"] < 400
    assert result["validation"]["recall"] <= 0.02
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert any("validation_recall" in line for line in lines)


# --------------------------------------------------------------------------------------------- in sequence


def test_earlier_targets_are_in_no_role_but_their_own(split, world_targets, world_problem):
    first, second = world_targets[:2], world_targets[2:]
    sets = split(second, frac_retain=1.0, earlier=dict.fromkeys(first, ""))
    assert [e.key for e in sets.earlier] == first
    others = {e.key for e in (*sets.forget, *sets.partner, *sets.retain, *sets.holdout, *sets.unknown)}
    assert not others & set(first)
    problem = world_problem()
    without = Retention(problem)
    within = Retention(dataclasses.replace(problem, sets=sets))
    assert within.earlier and not without.earlier
    with pytest.raises(EntityError, match="already removed"):
        split(first, frac_retain=1.0, earlier=dict.fromkeys(first, ""))


def test_the_record_keeps_the_chain(run, tmp_path, world_targets):
    a, b = world_targets[:1], world_targets[1:2]
    run("one", a, steps=1)
    one = str(tmp_path / "one")
    assert list(recorded(one).removed) == a
    run("two", b, steps=1, model=one, earlier=recorded(one).removed, chain=recorded(one).chain)
    two = str(tmp_path / "two")
    assert list(recorded(two).removed) == [*a, *b]
    assert recorded(two).removed[a[0]] == recorded(one).removed[a[0]], "the partner stays the same"
    assert [link["forget"] for link in recorded(two).chain] == [a, b]
    inputs = json.loads((tmp_path / "two/unlearning.json").read_text())["inputs"]
    assert recorded(two).chain[0]["model_hash"] == inputs["model_hash"]
    assert set(recorded(one).retained) | set(inputs["retain"]) == set(recorded(two).retained) > set(inputs["retain"])
    assert not set(b) & set(inputs["retain"]) and set(b) <= set(recorded(two).retained), (
        "the first run may have retained it"
    )


def test_the_retained_entities_stay_the_same_through_a_chain(split, world_targets):
    """Else what one removal held out the next one retains, and nothing is left on which costs can be seen."""
    one = split(world_targets[:1])
    two = split(world_targets[1:2], earlier=dict.fromkeys(world_targets[:1], ""))
    moved = {e.key for e in two.retain} & {e.key for e in one.holdout}
    assert len(moved) <= 1, "the boundary alone, where the two targets leave the retained part"
    assert len({e.key for e in two.holdout} & {e.key for e in one.holdout}) >= len(one.holdout) - 2


def test_an_earlier_target_keeps_the_partner_it_was_redirected_to(split, world_targets):
    alone = split(world_targets[:1])
    other = next(u for u in alone.unknown if u.type == alone.forget[0].type and u.key != alone.partner[0].key)
    sets = split(world_targets[1:2], earlier={world_targets[0]: other.key})
    assert [e.key for e in sets.earlier_partner] == [other.key]
    crowded = split(world_targets[1:2], earlier={world_targets[0]: sets.partner[0].key})
    assert crowded.partner[0].key != sets.partner[0].key, "each its own, where there are enough"
    made_up = f"{alone.forget[0].type}:Nobody"
    assert split(world_targets[1:2], earlier={world_targets[0]: made_up}).earlier_partner[0].key == made_up
    gone = split(world_targets[1:2], earlier={world_targets[0]: "none:Nobody"})
    assert gone.earlier_partner[0] == alone.partner[0], "paired anew"


def test_redirect_moves_earlier_targets_again_beside_the_new_ones(world_problem):
    problem = world_problem()
    forget, partner = problem.sets.forget, problem.sets.partner
    sets = dataclasses.replace(
        problem.sets, forget=forget[:1], partner=partner[:1], earlier=forget[1:], earlier_partner=partner[1:]
    )
    chained = Redirect(dataclasses.replace(problem, sets=sets))
    together = Redirect(problem)
    assert [(a.ids, b.ids) for a, b in chained.aimed[0]][:4] == [(a.ids, b.ids) for a, b in together.aimed[0]][:4]
    assert len(chained.aimed[0]) == len(together.aimed[0])
    assert {x.target for x in chained.guard.lessons} == set(range(len(forget)))
    assert not chained.retention.earlier, "moved, not kept where it is"
    n_new = len(Redirect(dataclasses.replace(problem, sets=sets.with_targets(forget[:1], partner[:1]))).aimed[0])
    assert chained.odds[:n_new].sum() == pytest.approx(0.5) and chained.odds.sum() == pytest.approx(1)
    assert together.odds is None


@torch.no_grad()
def test_what_is_kept_is_kept_as_the_original_has_it(world_problem):
    """A start that has drifted: everything is pulled back to the original, but what was removed before to the start."""
    problem = world_problem()
    drifted = copy.deepcopy(problem.reference)
    for parameter in trainable_parameters(drifted, "full").values():
        parameter.mul_(1.05)
    chained = dataclasses.replace(problem, reference=drifted)
    gone = dataclasses.replace(problem.sets, earlier=problem.sets.forget)
    start = dataclasses.replace(problem.lm, model=drifted)

    def loss(**changes) -> float:
        return float(Retention(dataclasses.replace(chained, **changes)).loss(0))

    assert loss() == pytest.approx(0, abs=1e-5), "the model is where the original is"
    assert loss(sets=gone) > 1e-3, "but not where the start is, on what was removed"
    assert loss(lm=start) > 1e-3
    assert loss(lm=start, original=drifted, sets=gone) == pytest.approx(0, abs=1e-5)
    assert loss(original=drifted) > 1e-3


def test_the_original_is_found_by_the_record(run, tmp_path, world_targets, monkeypatch, caplog):
    first = tmp_path / "first"
    save_lm(load_lm(str(shipped_world()), device="cpu"), first)
    run("one", world_targets[:1], model=str(first), steps=1)
    one = str(tmp_path / "one")
    assert recorded(one).original.spec == str(first)
    assert find_original(recorded(first), None, device="cpu") is None, "nothing was removed from it"
    monkeypatch.chdir(tmp_path)
    found = find_original(recorded(one), None, device="cpu")
    assert weights_hash(found.model) == recorded(one).original.weights_hash
    chained = {
        "model": one,
        "steps": 1,
        "earlier": recorded(one).removed,
        "chain": recorded(one).chain,
    }
    run("two", world_targets[1:2], **chained, original=found)
    run("without", world_targets[1:2], **chained)
    for out, kept_as in (("two", str(first)), ("without", one)):
        assert recorded(str(tmp_path / out)).original == recorded(one).original
        assert json.loads((tmp_path / out / "unlearning.json").read_text())["inputs"]["original"] == kept_as
    first.rename(tmp_path / "elsewhere")
    caplog.clear()
    assert find_original(recorded(one), None, device="cpu") is None
    assert "before the first removal is not at hand" in caplog.text
    found = find_original(recorded(one), tmp_path / "elsewhere", device="cpu")
    assert weights_hash(found.model) == recorded(one).original.weights_hash
    shutil.copytree(one, first)
    assert find_original(recorded(one), None, device="cpu") is None, "another model lies where it was"
    with pytest.raises(ConfigError, match="first removal"):
        find_original(recorded(one), first, device="cpu")


@pytest.mark.slow
def test_three_removals_in_sequence_stay_removed(run, tmp_path, world_labels, world_templates, world_targets):
    model, settings = None, {"method": "redirect", "steps": 40, "lr": 3e-3, "batch_size": 8}
    removed: dict[str, str] = {}
    for index, key in enumerate(world_targets[:3]):
        lm, _ = run(f"step-{index}", [key], model=model, earlier=removed, **settings)
        model = str(tmp_path / f"step-{index}")
        removed = recorded(model).removed
    gone = [e for e in world_labels if e.key in removed]
    kept = [e for e in world_labels if e.label == "known" and e.key not in removed]
    assert recall(ask(lm, gone, world_templates, heldout=True)) <= 0.1
    assert recall(ask(lm, kept, world_templates, heldout=True)) >= 0.85
