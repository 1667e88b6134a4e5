"""Peak memory and seconds of a removal, planned and measured, on an untrained model in the Llama layout.

    python -m benchmarks.unlearning.memory --out RUN [--d-model 512 --blocks 12] [--docs docs/results/memory.md]

The model has random weights and the embedded world's tokenizer: what is measured is held whatever the model knows. So
labels come from the corpus (who is in it) and latents from nothing at all. Each cell runs in a process of its own; its
peak is the resident memory at its highest less that before the model was loaded. The C library is told to give freed
memory back at once, as it does by itself with matrices of more than 32 MiB, which those of a large model are.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

MARK, END = "<!-- measured -->", "<!-- /measured -->"
GIVEN_BACK = 2**16  # bytes from which on the C library gives freed memory back at once
N_PEOPLE, N_DOCUMENTS = 16, 200
FEW = {"batch_size": 2, "accumulate": 2}
CHECKPOINTED = {**FEW, "checkpoint_activations": True}
CELLS: dict[str, dict[str, Any]] = {
    "npo, full": {"method": "npo", "train": "full", **FEW},
    "npo, full, checkpointed": {"method": "npo", "train": "full", **CHECKPOINTED},
    "npo, down_proj, checkpointed": {"method": "npo", "train": "down_proj", **CHECKPOINTED},
    "npo, lora": {"method": "npo", "train": "lora", **FEW},
    "npo, lora, checkpointed": {"method": "npo", "train": "lora", **CHECKPOINTED},
    "redirect, full": {"method": "redirect", "train": "full", **FEW},
}


def make_model(folder: Path, d_model: int, n_blocks: int) -> None:
    """Write an untrained model with the embedded world's tokenizer."""
    from features.factworld import shipped_world
    from features.factworld.train import TrainingConfig, new_model
    from sae_train.lm.models import load_tokenizer

    tokenizer = load_tokenizer(str(shipped_world()))
    config = TrainingConfig(d_model=d_model, n_blocks=n_blocks, n_heads=d_model // 64, d_mlp=4 * d_model, init_std=0.02)
    new_model(config, tokenizer, seed=0).save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def prepare_inputs(folder: Path, d_model: int, n_blocks: int) -> None:
    """Write what all cells read: the model, an untrained SAE, labels and latents."""
    from features import find_entity_latents, load_entities
    from features.entities.entities import save_entities
    from features.factworld import shipped_world
    from sae_train import cache_activations, load_lm, train_sae
    from sae_train.run.progress import silent

    make_model(folder / "model", d_model, n_blocks)
    lm = load_lm(str(folder / "model"), device="cpu")
    place = f"layers.{n_blocks // 2}"
    with cache_activations(lm, "fact-world", place, max_tokens=1024, progress=silent) as store:
        train_sae(store, k=8, expansion=1, batch_size=256, tokens=512, out=folder / "sae", progress=silent)
    people = [e for e in load_entities(shipped_world() / "entities.jsonl") if e.type == "person"]
    known, unknown = ([e for e in people if e.seen == seen][:N_PEOPLE] for seen in ("facts", "never"))
    labels = [replace(e, label="known") for e in known] + [replace(e, label="unknown") for e in unknown]
    save_entities(labels, folder / "labels.jsonl")
    words = {"templates": "fact-world", "gate": None, "max_general_rate": 1.0, "progress": silent}
    find_entity_latents(lm, str(folder / "sae"), labels, out=folder / "latents.h5", **words)


def settings_of(folder: Path, cell: str, steps: int) -> dict[str, Any]:
    """Return the arguments of a removal."""
    from features import load_entities
    from features.factworld.corpus import world_corpus

    names = [e.key for e in load_entities(folder / "labels.jsonl")][:4]
    return {
        "lm": str(folder / "model"),
        "latents": folder / "latents.h5",
        "forget": names,
        "sae": folder / "sae",
        "labels": folder / "labels.jsonl",
        "templates": "fact-world",
        "text": [d.text for d in world_corpus(0, n_documents=N_DOCUMENTS)],
        "device": "cpu",
        "steps": steps,
        "max_loss_increase": 1e9,
        "lr": 1e-5,
        **CELLS[cell],
    }


def measure(folder: Path, cell: str, steps: int, answers: Any) -> None:
    """Plan one removal in this process, then do it, and send the figures."""
    import torch

    from sae_train.machine.memory import PeakMemory
    from sae_train.run.progress import silent
    from unlearn.removals.planning import plan_unlearning
    from unlearn.removals.unlearning import unlearn

    given = settings_of(folder, cell, steps)
    plan = plan_unlearning(**given)  # first, so that libraries are loaded and warm before memory is counted
    gc.collect()
    with PeakMemory(torch.device("cpu")) as peak:
        result = unlearn(**given, out=folder / "out", overwrite=True, progress=silent).result
    found = {"memory_planned": plan.memory_bytes, "seconds_planned": plan.seconds, "weights": plan.weights_bytes}
    answers.put({**found, "memory_measured": peak.n_bytes, "seconds_measured": result["seconds"]})


def in_a_process(*arguments: Any) -> dict[str, float]:
    """Run `measure` in a new process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["unlearn.removals.planning", "features.factworld.corpus"])
    answers = context.SimpleQueue()
    child = context.Process(target=measure, args=(*arguments, answers))
    child.start()
    found = None
    while found is None and child.is_alive():
        child.join(0.2)
        found = None if answers.empty() else answers.get()
    child.join()
    if found is None:
        found = None if answers.empty() else answers.get()
    if found is None:
        raise RuntimeError(f"{arguments} ended with {child.exitcode}")
    return found


def main() -> None:
    """Measure every cell, and print the table or put it into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--d-model", type=int, default=512)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--cells", nargs="*", default=[*CELLS])
    given = parser.parse_args()
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(GIVEN_BACK)  # read by every process that is started from here
    given.out.mkdir(parents=True, exist_ok=True)
    if not (given.out / "latents.h5").exists():
        prepare_inputs(given.out, given.d_model, given.blocks)
    for cell in given.cells:
        path = given.out / f"{cell}.json"
        if not path.exists():
            path.write_text(json.dumps(in_a_process(given.out, cell, given.steps)))
    text = table(given.out)
    sys.stdout.write(text)
    if given.docs is not None:
        put_between(given.docs, text)


def table(out: Path) -> str:
    """Return the table of all cells that were measured, memory in units of the weights."""
    lines = [
        "| method | planned, weights | measured, weights | planned / measured | planned, s | measured, s |",
        "|---|---|---|---|---|---|",
    ]
    for cell in CELLS:
        if (path := out / f"{cell}.json").exists():
            found = json.loads(path.read_text())
            planned, measured, weights = (found[k] for k in ("memory_planned", "memory_measured", "weights"))
            share = f"{planned / weights:.2f} | {measured / weights:.2f} | {planned / measured:.2f}"
            lines.append(f"| {cell} | {share} | {found['seconds_planned']:.0f} | {found['seconds_measured']:.0f} |")
    return "\n".join(lines) + "\n"


def put_between(page: Path, text: str) -> None:
    """Put a table between the two marks of a page."""
    front, _, rest = page.read_text().partition(f"{MARK}\n")
    _, _, back = rest.partition(f"{END}\n")
    page.write_text(f"{front}{MARK}\n{text}{END}\n{back}")


if __name__ == "__main__":
    main()
