"""Builds a fact world: a Hugging Face folder with the entities, wordings and corpus its model was trained on.

config.json, generation_config.json, model.safetensors (bfloat16), tokenizer.json, tokenizer_config.json
entities.jsonl   1,000 entities; `seen` says what the corpus told: "facts", "name" (once), "never"
templates.json   mentions and prompts of each type
corpus.jsonl     the documents in training order (left out of the world that is shipped)
world.json       seed, versions, hashes, and what was measured
"""

from __future__ import annotations

import json
import platform
import time
from collections import Counter
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from features.factworld.check import WorldFacts, check_world
from features.factworld.corpus import N_DOCUMENTS, Document, World, draw_world
from features.factworld.facts import FactEntity
from features.factworld.templates import templates_json
from features.factworld.tokenizer import train_tokenizer
from features.factworld.train import TrainingConfig, train_model
from sae_train.errors import ConfigError
from sae_train.machine.doctor import cpuinfo
from sae_train.run.outputs import claimed, whole_folder
from sae_train.run.progress import Progress, shown
from sae_train.run.runs import file_hash, text_hash, write_json, write_text
from sae_train.run.tensor_files import open_up
from sae_train.run.threads import torch_threads

SCHEMA, SCHEMA_VERSION = "fact-world", 1
MIN_DOCUMENTS = 2_000
"""Fewer documents would not hold every name that is to be seen once."""
_HASHED_FILES = ("entities.jsonl", "templates.json", "tokenizer.json", "model.safetensors")


@dataclass(frozen=True)
class WorldReport:
    """A world that was built.

    Attributes:
        folder: Where it lies.
        facts: What was measured on the weights as stored.
        seconds: Wall time of the whole build.
    """

    folder: Path
    facts: WorldFacts
    seconds: float


def build_world(
    out: str | Path,
    seed: int = 0,
    *,
    n_documents: int = N_DOCUMENTS,
    n_threads: int = 1,
    with_corpus: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> WorldReport:
    """Draw world `seed`, train its language model on CPU, measure it, and write the folder `out`.

    The same seed, number of documents and threads, torch version and kind of processor give the same weights.
    More threads hardly help a model this small.

    Args:
        out: The world: a Hugging Face folder with entities, templates and corpus in it.
        seed: Which world.
        n_documents: Documents in the corpus; with few of them the model knows nothing.
        n_threads: Of the processor.
        with_corpus: Leave `corpus.jsonl` in the folder.
        overwrite: Replace a world that lies there.
        progress: Shows how far training is; by default whatever there is: terminal, notebook, log.

    Raises:
        OutputExistsError: `out` is taken and `overwrite` is False, or it is not a folder of ours.
        ConfigError: There are too few documents to mention every name that is to be seen once.
    """
    if n_documents < MIN_DOCUMENTS:
        raise ConfigError("too few documents for a fact world", got=n_documents, expected=f">= {MIN_DOCUMENTS}")
    out = Path(out)
    with claimed(out, overwrite=overwrite):
        started = time.monotonic()
        world = draw_world(seed, n_documents=n_documents)
        texts = [document.text for document in world.documents]
        tokenizer = train_tokenizer(texts)
        config = TrainingConfig()
        n_batches = -(-len(texts) // config.batch_documents)
        show = progress or shown
        with torch_threads(n_threads), show("training the language model", n_batches, unit="batches") as advance:
            model = train_model(texts, tokenizer, seed=seed, config=config, advance=advance)
        with whole_folder(out, overwrite=overwrite) as folder:
            _write_world(folder, world, model, tokenizer, with_corpus=with_corpus)
            facts = check_world(folder)
            write_json(folder / "world.json", _record(folder, world, config, facts, n_threads=n_threads))
    return WorldReport(out, facts, time.monotonic() - started)


def corpus_lines(documents: tuple[Document, ...] | list[Document]) -> str:
    """Return `corpus.jsonl` as one text: fields `text` and `kind`."""
    return "".join(json.dumps({"text": d.text, "kind": d.kind}) + "\n" for d in documents)


def entity_lines(entities: tuple[FactEntity, ...]) -> str:
    """Return `entities.jsonl` as one text."""
    return "".join(entity.to_json_line() + "\n" for entity in entities)


def _write_world(
    folder: Path,
    world: World,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    *,
    with_corpus: bool,
) -> None:
    """Write everything but world.json; weights are rounded to bfloat16."""
    write_text(folder / "entities.jsonl", entity_lines(world.cast.entities))
    write_json(folder / "templates.json", templates_json(world.templates))
    if with_corpus:
        write_text(folder / "corpus.jsonl", corpus_lines(world.documents))
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    open_up(folder)


def _record(
    folder: Path, world: World, config: TrainingConfig, facts: WorldFacts, *, n_threads: int
) -> dict[str, object]:
    """Return what world.json says; nothing in it depends on when it was built."""
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "seed": world.seed,
        "counts": {
            "documents": len(world.documents),
            "documents_by_kind": dict(Counter(d.kind for d in world.documents)),
            "entities": dict(Counter(e.seen for e in world.cast.entities)),
        },
        "training": asdict(config) | {"n_threads": n_threads},
        "machine": machine_identity(),
        "versions": {p: version(p) for p in ("torch", "transformers", "tokenizers")},
        "sha256": {name: file_hash(folder / name) for name in _HASHED_FILES}
        | {"corpus": text_hash(d.text for d in world.documents)},
        "facts": asdict(facts),
    }


def machine_identity() -> dict[str, str]:
    """Return what the last bit of a float32 product depends on beside the program.

    The instruction set alone does not decide it: the math library has kernels of its own for each family of processors.
    A record without `processor` cannot say whether another machine computes alike.
    """
    keys = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")
    found = dict.fromkeys(line for line in cpuinfo().splitlines() if line.split(":")[0].strip() in keys)
    return {
        "architecture": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "processor": text_hash(found) if found else platform.processor(),
    }
