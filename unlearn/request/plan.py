"""The plan of a request before anything is done: which stations are kept, and what the others will take.

Times come from three probes on this machine, with this model and this text: questions answered as labelling asks them,
a small activation store, and a few steps of an SAE on it. What a station does is counted in answers, tokens and rows,
and multiplied by what one of them took. What is no forward pass is counted in tokens that take as long; these factors
come from one request on the embedded world and one removal on SmolLM2-135M.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from features.causal.gate import CONDITIONS
from features.entities.entities import Entity
from features.entities.name_tokens import encode
from features.entities.prompts import Prompt, contexts, questions
from features.labels.knowledge import ANSWER_TOKENS, GREEDY
from features.labels.made_up import N_NAMES, asked_of_all
from features.labels.rules import RULES
from features.naming.other_names import NAME_TOKENS
from sae_train import ActivationStore, cache_activations, train_sae
from sae_train.lm.answering import ROWS, write_answers
from sae_train.run.progress import Progress, silent
from sae_train.text.tokens import Corpus
from unlearn.request.inputs import Inputs
from unlearn.request.inside import latents_of
from unlearn.request.people import N_BESIDE, all_labels, everybody, known_target
from unlearn.request.stations import Visit, Workshop, read_record

PROBE_ROWS = (512, 2560)  # of a small and a larger store
PROBE_STEPS = (2, 8)
LEAST_S = 1e-9  # of a token or row, where a clock saw no difference
ENTITY_TOKENS = 8  # read for one row of an entity's context
STEP_TOKENS = 10_000  # forward passes that a step of a gradient method takes as long as
SOLVE_TOKENS = 55_000  # the same for the closed form
ATTACK_TOKENS = 1_700  # the same for one step of an attack by lessons
LOSS_TOKENS = 60_000  # the same for the loss on general text, before and after
AUDIT_ROUNDS = 16  # times that everybody is asked in an audit, before and after, by all its parts together
SEVERAL_LENGTHS = 1.4  # batches of a station hold prompts of one length, and are seldom as full as the probe's
FIXED_S = {"latents": 2.0, "audit": 8.0}  # statistics and pages, whatever the model
STATIONS = ("names", "target", "labels", "gate", "activations", "sae", "latents", "removal", "audit")


@dataclass(frozen=True)
class Planned:
    """One station of a plan.

    Attributes:
        station: Its name.
        is_kept: An earlier run has made it.
        seconds: Estimated; 0 where it is kept.
        memory_bytes: Most memory while it runs, the model included.
        disk_bytes: What it leaves.
    """

    station: str
    is_kept: bool
    seconds: float
    memory_bytes: int
    disk_bytes: int


@dataclass(frozen=True)
class Speeds:
    """What was probed.

    Attributes:
        answer_s: Seconds an answer of `ANSWER_TOKENS` tokens, many at a time.
        token_s: Seconds a token that is read.
        sae_row_s: Seconds a row that an SAE is trained on.
    """

    answer_s: float
    token_s: float
    sae_row_s: float


class NotMadeError(Exception):
    """A station of a dry run that is not there yet."""


class Looker(Workshop):
    """A workshop in which nothing is made: what is there is found, what is not ends the tour."""

    def _visit(self, station: str, folder: Path, record: Path, identity: Any, make: Any) -> Path:
        """Return the folder of a station that is whole.

        Raises:
            NotMadeError: It is not.
        """
        begun = read_record(record)
        if begun is None or not begun["ended"]:
            raise NotMadeError(station)
        self.visits.append(Visit(station, folder, float(begun["seconds"]), is_kept=True))
        return folder


def plan_request(inputs: Inputs, work: Path, *, progress: Progress = silent) -> list[Planned]:
    """Return the stations of a request with what they will take; nothing is written but temporary probes.

    Raises:
        EntityError: An earlier run found that the model does not know the name.
    """
    shop, people = Looker(work), []
    with suppress(NotMadeError):
        people = everybody(inputs, shop, progress)
        with suppress(NotMadeError):  # what follows does not depend on the target
            known_target(inputs, shop, people, progress)
        labels, labels_hash = all_labels(inputs, shop, people, progress)
        latents_of(inputs, shop, labels, labels_hash, progress)
    kept = {visit.station for visit in shop.visits}
    if "latents" not in kept:
        kept.discard("sae")  # one of several, perhaps
    with progress("probing", 3, unit="probes") as advance:
        answer_s = probe_answers(inputs)
        advance(1)
        token_s, sae_row_s = probe_rows(inputs)
        advance(2)
    speeds = Speeds(answer_s, token_s, sae_row_s)
    wanted = [s for s in STATIONS if s != "names" or inputs.entities is None]
    work_of = seconds_of(inputs, speeds, len(people) or None)
    memory, disk = memory_of(inputs), disk_of(inputs)
    return [Planned(s, s in kept, 0.0 if s in kept else work_of[s], memory[s], disk.get(s, 0)) for s in wanted]


def probe_answers(inputs: Inputs) -> float:
    """Return the seconds of one answer, asked as labelling asks: in full batches of equal length, once warm."""
    asked = _questions(inputs, [inputs.target])
    decoding = replace(GREEDY, samples=inputs.samples)
    few = [asked[0], asked[-1]]
    ids = [read.ids for read in encode(inputs.lm, few) for _ in range(ROWS // (1 + decoding.samples))]
    write_answers(inputs.lm, ids[:1], decoding)
    started = time.perf_counter()
    write_answers(inputs.lm, ids, decoding)
    return (time.perf_counter() - started) / (len(ids) * (1 + decoding.samples))


def probe_rows(inputs: Inputs) -> tuple[float, float]:
    """Return the seconds of a token that is cached and of a row of SAE training, from small stores that go away.

    Each is the slope between a small and a larger run, so that what both begin with does not count.
    """
    few, many = (_timed_store(inputs, n) for n in PROBE_ROWS)
    with many[1] as store:
        short, long = (_timed_sae(inputs, store, steps) for steps in PROBE_STEPS)
    few[1].close()
    batch = _batch(inputs)
    token_s = (many[0] - few[0]) / (PROBE_ROWS[1] - PROBE_ROWS[0])
    return max(token_s, LEAST_S), max((long - short) / (batch * (PROBE_STEPS[1] - PROBE_STEPS[0])), LEAST_S)


def _batch(inputs: Inputs) -> int:
    """Return the rows of a step of the probe: those of a step, or half of the probe's store."""
    return min(inputs.config.sae_batch_size, PROBE_ROWS[1] // 2)


def _timed_store(inputs: Inputs, n_rows: int) -> tuple[float, ActivationStore]:
    """Cache some rows of the text; return what that took, and the store."""
    started = time.perf_counter()
    store = cache_activations(
        inputs.lm,
        Corpus(inputs.text_name, inputs.documents),
        f"layers.{inputs.lm.n_blocks // 2}",
        max_tokens=n_rows,
        ctx_len=min(inputs.config.ctx_len, inputs.lm.max_positions),
        progress=silent,
    )
    return time.perf_counter() - started, store


def _timed_sae(inputs: Inputs, store: ActivationStore, steps: int) -> float:
    """Train an SAE for some steps; return what that took."""
    config, batch = inputs.config, _batch(inputs)
    started = time.perf_counter()
    train_sae(
        store,
        k=config.sae_k,
        expansion=config.sae_expansion,
        batch_size=batch,
        tokens=steps * batch,
        device=str(inputs.lm.device),
        progress=silent,
    )
    return time.perf_counter() - started


def _questions(inputs: Inputs, entities: Sequence[Entity]) -> list[Prompt]:
    """Return the questions that labelling asks about entities."""
    needs_facts = RULES[inputs.rule.name].needs_facts
    asked = entities if needs_facts else asked_of_all(entities, inputs.templates)
    return [prompt for e in asked for prompt in questions(e, inputs.templates, heldout=False)]


def seconds_of(inputs: Inputs, speeds: Speeds, n_people: int | None) -> dict[str, float]:
    """Return the estimated seconds of every station.

    Args:
        inputs: The request.
        speeds: What was probed.
        n_people: Entities that are labelled, where that is known already.
    """
    config, answer, token = inputs.config, speeds.answer_s * SEVERAL_LENGTHS, speeds.token_s
    n_all = n_people or (config.n_others + config.n_unknown if inputs.entities is None else len(inputs.entities))
    made_up = 0 if RULES[inputs.rule.name].needs_facts else N_NAMES
    per_entity = len(_questions(inputs, [inputs.target])) * (1 + inputs.samples) * answer
    n_contexts = len(contexts(inputs.target, inputs.templates)) + len(inputs.templates.attributes(inputs.target.type))
    gate = config.gate_entities * config.gate_questions * answer
    n_audited = min(n_all // 2 + 1, 1 + inputs.auditing.n_neighbours + (inputs.auditing.max_retain or n_all))
    heldout = len([*questions(asked_of_all([inputs.target], inputs.templates)[0], inputs.templates, heldout=True)])
    steps_each = max(inputs.auditing.attack_steps)
    attacks = steps_each * (1 + 2 * len(inputs.auditing.attack_lrs))  # fine-tuning; two by lessons at every step size
    solves = inputs.unlearning.settings.is_solved
    is_solution = solves and inputs.unlearning.steps == 1  # else steps follow, or a solution is where they begin
    steps = 0 if is_solution else inputs.unlearning.steps
    text_tokens = (
        config.n_rows * (1 - config.frac_entity_rows) + config.n_rows * config.frac_entity_rows * ENTITY_TOKENS
    )
    return {
        "names": config.name_samples
        * len(inputs.kinds.similar.get(inputs.target.type, ()))
        * answer
        * (NAME_TOKENS / ANSWER_TOKENS),
        "target": (1 + (N_BESIDE + made_up if made_up else 0)) * per_entity,
        "labels": (n_all + made_up) * per_entity,
        "gate": gate * (2 * min(config.gate_blocks, inputs.lm.n_blocks) + 1),
        "activations": text_tokens * token,
        "sae": config.n_hook_points * config.sae_tokens * speeds.sae_row_s,
        "latents": gate * (len(CONDITIONS) * config.n_hook_points + 1)
        + n_all * n_contexts * ENTITY_TOKENS * token
        + FIXED_S["latents"],
        "removal": (steps * STEP_TOKENS + (SOLVE_TOKENS if solves else 0)) * token,
        "audit": AUDIT_ROUNDS * n_audited * heldout * answer
        + (attacks * ATTACK_TOKENS + LOSS_TOKENS) * token
        + FIXED_S["audit"],
    }


def memory_of(inputs: Inputs) -> dict[str, int]:
    """Return the most memory of every station, by what is held: models, gradients, moments, an SAE (float32)."""
    parameters = sum(p.numel() for p in inputs.lm.model.parameters())
    sae = 2 * inputs.lm.d_model**2 * inputs.config.sae_expansion
    one = 4 * parameters
    trains = 0 if inputs.unlearning.settings.is_solved else 3 * one  # gradient and two moments
    found: dict[str, int] = {station: one for station in STATIONS}
    found["sae"] = one + 4 * 4 * sae
    found["latents"] = one + inputs.config.n_hook_points * 4 * sae
    found["removal"] = 2 * one + trains
    found["audit"] = 6 * one  # before, after, and the one that an attack teaches, with gradient and two moments
    return found


def disk_of(inputs: Inputs) -> dict[str, int]:
    """Return what the stations leave, the large ones."""
    config, width = inputs.config, inputs.lm.d_model
    sae = 2 * width**2 * config.sae_expansion * 4
    model = sum(p.numel() * p.element_size() for p in inputs.lm.model.parameters())
    return {
        "activations": config.n_rows * width * 2 * config.n_hook_points,
        "sae": config.n_hook_points * sae,
        "latents": config.n_hook_points * sae // 2,
        "removal": model,
    }
