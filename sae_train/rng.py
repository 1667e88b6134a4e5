"""Every random stream by name: one table of salts, so that different draws never share random numbers.

    rng(name, *keys) = numpy.random.default_rng([salt of the name, *keys])
    torch_rng(name, seed) = torch.Generator().manual_seed(salt of the name ^ seed)

Nowhere else is a generator of numpy or torch made or seeded.

A stream is a function of its name and its keys alone (a seed, a step, the bytes of an entity's key), never of what was
drawn before: a run that is resumed, or a batch that is asked for twice, finds the same numbers. A salt is never
changed: results on disk were made with it. New streams take a salt that no other has. Streams of Python's own `random`
are seeded with a sentence, which is their name (`random.Random(f"factworld facts {seed}")`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from sae_train.errors import ConfigError

# None: no salt, the keys alone are the seed. Such streams coincide where their keys do, which does no harm in places
# that never meet. They are as old as the files they made; a new stream has a salt.
SALTS: dict[str, int | None] = {
    # sae_train
    "bootstrap.documents": 0xB007,  # how often each group of documents is in each resample
    "store.heldout": 0x5AE,  # which documents of a store are kept for evaluation
    "windows.order": 0x31C,  # the order of text windows and entity sentences in a store
    "windows.shuffled": 0x31D,  # the order of text windows whose activations are computed as they are read
    "sampler.chunk_order": None,  # in which order an epoch reads the chunks; keys: seed, epoch, 0
    "sampler.row_order": None,  # where each row of a group of chunks goes; keys: seed, epoch, 1, group
    "sampler.sample_chunks": None,  # the chunks that a sample of rows is read from; keys: seed, 2
    "sampler.sample_rows": None,  # the order of a sampled chunk's rows; keys: seed, 0, 1, chunk
    "store.dataset": 0xDA7A,  # the order in which a dataset of a store gives its rows
    "sample_geometry.rows": None,  # the rows of a store that are kept for its geometry
    "sample_geometry.duplicates": None,  # those among them whose duplicates are counted
    "answering.samples": None,  # the sampled answers to one question; keys: seed, token ids of the prompt
    # features
    "selection.halves": 0xE417,  # which entities are held out from mining
    "permutation.labels": 0x5BFF,  # known and unknown shuffled: the null of the best separation
    "controls.latents": 0xC7A1,  # random sets of latents that the selected ones are compared with
    "intervals.mean": 0xB0,  # bootstrap of a mean over entities
    "intervals.ratio": 0xB1,  # bootstrap of a ratio of two means
    "absorption.halves": 0xAB50,  # groups by which latents are chosen, the others judge; keys: seed, class
    "probe.auroc": None,  # bootstrap of an AUROC over entities
    "prompts.documents": 0xE0,  # the order of entity sentences that go into a store
    "questions.wordings": 0x6A,  # the questions about one entity; keys: seed, bytes of the entity's key
    "questions.entities": 0x6B,  # the entities that are asked about
    "gate.random_latents": 0x6C,  # the latents of the random control, anew for each entity
    "evidence.windows": 0x6D,  # the text windows on which a steered model is read
    "browsing.firings": 0xB105,  # which firings of a latent are kept as examples; keys: seed, first row of a batch
    "browsing.rows": 0xB106,  # the rows on which latents that fire together are counted
    "explanations.latents": 0xE8A,  # the latents whose explanation is asked for
    "explanations.texts": 0xE8B,  # the texts and marks that test an explanation; keys: seed, latent
    "labels.made_up": 0x3A,  # the pieces of made-up names; keys: seed, bytes of the type
    "made_up.groups": 0x6A0,  # the pieces of a group's names dealt anew; keys: seed, group
    "labels.other_facts": 0x3B,  # another's answer for what is not known; keys: bytes of entity key and attribute
    "pairing.assignments": 0xBA,  # alternative assignments of unknown partners to targets
    "planting.general": 0x91A7,  # the windows of general text of one step of planting; keys: seed, step
    # unlearn: training
    "data.retain": 0xD0,  # known entities in the order in which the retain set takes them
    "pairs.target_answers": 0xE2,  # the other answers that redirected prompts end in
    "pairs.partners": 0xE3,  # the partner of each prompt, where several are allowed
    "pairs.pool_order": 0xE4,  # the order of each target's pool of partners, for a mean over partners
    "redirect.batch": 0xCC,  # the prompts of one step of redirection; keys: seed, step
    "forgetting.batch": 0xCC,  # the examples of one step of another method; keys: seed, step
    "forgetting.statistics": 0xCD,  # the prompts whose activations a method measures before it starts
    "layered.folds": 0xCF,  # which fold of layered unlearning a fact is in
    "layered.batch": 0xD1,  # the examples of later folds that one step keeps; keys: seed, step
    "redirect.measured": 0xD3,  # the sequences on which the metric of natural gradients is measured; keys: seed
    "redirect.natural": 0xD2,  # the prompts of one step of redirection by natural gradients; keys: seed, step
    "repselect.batches": 0xCE,  # the order in which an adapter learns the answers; keys: seed, epoch
    "retention.statistics": 0xAA,  # the prompts on which the variance of each block is measured
    "retention.batch": 0xBB,  # entities, earlier targets and text retained in one step; keys: seed, step
    "validation.candidates": 0xBA,  # wrong answers that a target's true one is ranked among; keys: bytes of its key
    # unlearn: audit
    "roles.retain": 0xA0,  # known entities that the audit watches beside the neighbours
    "roles.halves": 0xA1,  # entities of a type split into fitting and measuring, where no latents were mined
    "roles.control_facts": 0xA2,  # facts made up for the unknown control of a target
    "ranking.candidates": 0xCA,  # wrong answers that the true one is ranked among
    "logit_lens.fitted": 0xB0,  # entities that a value probe is fitted on
    "indistinguishability.controls": 0xC7,  # groups of never-known entities: the null of the probes
    "matched_null.folds": 0xF01D,  # folds that never depend on who the targets are
    "two_sample.permutations": 0xE5,  # relabellings of targets and controls
    "attack.prompts.options": 0x3C,  # the choices offered in a multiple-choice question
    "attack.prompts.hops": 0x3D,  # the names offered in a multi-hop question; keys: seed, bytes of key and attribute
    "attack.relearn.facts": 0x7E,  # the half of each target's facts that is taught
    "attack.relearn.batch": 0x7F,  # the lessons of one step of relearning; keys: seed, step
    "attack.same-form.batch": 0x5F,  # the lessons of one step about other entities; keys: seed, step
    "attack.finetune.batch": 0xF7,  # the text of one step of benign fine-tuning; keys: seed, step
    # the demo and the benchmarks
    "demo.targets": 0xF0,  # the entities that `wb demo` forgets
    "benchmark.redirection.targets": 0xF0,  # known entities of one ablation request; keys: draw
    "benchmark.redirection.partners": 0xF1,  # the stand-in of each of them
    "benchmark.unlearning.targets": 0xBE,  # targets of each split; keys: bytes of the type
    "benchmark.unlearning.retain": 0xBF,  # known entities that side effects are measured on
    "benchmark.unlearning.controls": 0xBD,  # entities that take the targets' place in a control; keys: draw
    "benchmark.cheats.batch": 0xC4EA7,  # what one step of training against the audit sees; keys: seed, step
    "benchmark.null_rate.groups": 0x9A7E,  # unknown entities in the targets' place; keys: seed, draw
    "benchmark.store.tokens": None,  # token ids of a made-up text
    "benchmark.labelling.entities": 0xB6,  # the entities that two rules label
    "benchmark.variants.rows": 0xBA5,  # planted directions, and rows made of them
    "benchmark.latents.contexts": None,  # which latents fire in which made-up context
    "benchmark.latents.entities": None,  # labels and types of made-up entities
}

# Salts that two streams already shared when the table was made: their results exist. No other pair may.
SHARED_SALTS = frozenset({0xCC, 0xB0, 0xBA, 0xF0})

# Combined with the seed by exclusive or; 0 leaves the seed as it is, so these streams share their numbers at one seed.
TORCH_SALTS: dict[str, int] = {
    "sae.directions": 0,  # decoder rows of a new SAE
    "transcoder.encoder": 0x7C0DE,  # encoder columns of a new transcoder
    "comparison.null": 0xC0515E,  # random directions that two SAEs' agreement is compared with
    "architecture.push": 0,  # the vectors an MLP's output is pushed by, to see whether they arrive
    "adapter.weights": 0,  # a new adapter's weights (PEFT draws from the global generator)
    "candidates.sampling": 0,  # answers that an audit draws at temperature one
    "factworld.weights": 0,  # a new fact world model
    "factworld.batches": 0,  # the order of its training batches
    "redirect.fisher": 0xF15,  # the tokens drawn from the model by which its Fisher information is measured
    "rmu.direction": 0,  # the direction that RMU pushes activations along
    "benchmark.training.activations": 0,  # synthetic activations
    "benchmark.calibration.noise": 0,  # noise on a model's weights
    "benchmark.store.weights": 0,  # the model whose activations are stored
    "benchmark.systems.weights": 0,  # the SAE of the other library
    "benchmark.recovery.rows": 0,  # activations of a synthetic world
    "benchmark.recovery.training": 0,  # training by the other library
    "benchmark.recovery.scores": 0,  # rows that nobody trained on
}


def rng(name: str, *keys: int) -> np.random.Generator:
    """Return a fresh generator of a named stream, in its first state.

    Args:
        name: An entry of `SALTS`.
        keys: Whole numbers >= 0 that tell the draws of one stream apart: a seed, a step, bytes of a text.

    Example:
        >>> bool(rng("redirect.batch", 0, 3).random() == np.random.default_rng([0xCC, 0, 3]).random())
        True
    """
    assert name in SALTS, f"no random stream {name!r}: add it to SALTS"
    salt = SALTS[name]
    _check_seed(min(keys, default=0))
    return np.random.default_rng([*keys] if salt is None else [salt, *keys])


def torch_rng(name: str, seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh torch generator of a named stream; on the CPU its numbers are the same on every machine.

    Args:
        name: An entry of `TORCH_SALTS`.
        seed: Tells the draws of one stream apart.
        device: Where the numbers are drawn.
    """
    return torch.Generator(device).manual_seed(_torch_seed(name, seed))


@contextmanager
def torch_global_rng(name: str, seed: int, devices: Sequence[torch.device] | None = None) -> Iterator[None]:
    """Seed torch's global generators inside a `with`, for libraries that take no generator; restore them behind it.

    Args:
        name: An entry of `TORCH_SALTS`.
        seed: As in `torch_rng`.
        devices: CUDA devices whose state is restored; None for all.
    """
    with torch.random.fork_rng(devices=devices):
        seed_torch(name, seed)
        yield


def seed_torch(name: str, seed: int) -> None:
    """Seed torch's global generators for good: for scripts that run another library, which draws from them."""
    torch.manual_seed(_torch_seed(name, seed))


def _torch_seed(name: str, seed: int) -> int:
    """Return what a torch generator of a stream is seeded with."""
    assert name in TORCH_SALTS, f"no random stream {name!r}: add it to TORCH_SALTS"
    _check_seed(seed)
    return TORCH_SALTS[name] ^ seed


def _check_seed(seed: int) -> None:
    """Refuse what no generator takes."""
    if not 0 <= seed < 2**63:
        raise ConfigError("seed is out of range", got=seed, expected="a whole number >= 0 and < 2^63", field="seed")
