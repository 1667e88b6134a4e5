"""How fast a model is asked: the answering loop beside `transformers`' generate, in the same run.

    python -m benchmarks.entities.labelling --model MODEL --data DATA [--n 200] [--samples 10] [--threads 1]

Three ways, each over the same questions about Wikidata cities: greedy answers as `generate` writes them, greedy answers by
the loop, and greedy plus samples by the loop and by `generate` (num_return_sequences). Prints one JSON object; the shares
of equal verdicts say whether the ways agree.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.entities.cities import write_inputs
from features import load_entities, load_templates
from features.entities.name_tokens import encode
from features.entities.prompts import Prompt, questions
from features.labels.knowledge import ANSWER_TOKENS, GREEDY
from features.labels.matching import judge
from sae_train.lm.answering import batches_by_length, write_answers
from sae_train.lm.models import LanguageModel, load_lm

ROWS = 128


def by_generate(lm: LanguageModel, ids: list[list[int]], samples: int) -> list[str]:
    """Return what `generate` writes; with samples the prompts are asked a second time, each that many times."""
    answers = [""] * len(ids)
    model: Any = lm.model
    for batch in batches_by_length([len(i) for i in ids], max(1, ROWS // (1 + samples))):
        tokens = torch.tensor([ids[i] for i in batch])
        given = {"attention_mask": torch.ones_like(tokens), "max_new_tokens": ANSWER_TOKENS, "pad_token_id": 0}
        out = model.generate(tokens, do_sample=False, **given)
        for index, text in zip(batch, lm.tokenizer.batch_decode(out[:, tokens.shape[1] :]), strict=True):
            answers[index] = text
        if samples:
            model.generate(tokens, do_sample=True, num_return_sequences=samples, top_k=0, **given)
    return answers


def timed(ask: Callable[[], list[str]], prompts: list[Prompt], accepted: list[list[str]]) -> dict[str, Any]:
    """Return questions per second and the verdicts."""
    started = time.perf_counter()
    said = ask()
    wall = time.perf_counter() - started
    return {"per_s": len(prompts) / wall, "verdicts": [judge(t, a) for t, a in zip(said, accepted, strict=True)]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        entities, templates = write_inputs(args.data, Path(folder), max(1, args.n // 5))
        subjects, texts = load_entities(entities), load_templates(templates)
    prompts = [p for e in subjects for p in questions(e, texts, heldout=False)][: args.n]
    facts = {e.key: e.facts for e in subjects}
    accepted = [facts[p.entity][p.attribute or ""] for p in prompts]
    lm = load_lm(args.model, device="cpu")
    ids = [read.ids for read in encode(lm, prompts)]
    sampling = replace(GREEDY, samples=args.samples)
    ways: dict[str, Callable[[], list[str]]] = {
        "generate, greedy": lambda: by_generate(lm, ids, 0),
        "loop, greedy": lambda: [w.greedy for w in write_answers(lm, ids, GREEDY)],
        f"generate, greedy + {args.samples}": lambda: by_generate(lm, ids, args.samples),
        f"loop, greedy + {args.samples}": lambda: [w.greedy for w in write_answers(lm, ids, sampling)],
    }
    found = {name: timed(ask, prompts, accepted) for name, ask in ways.items()}
    first = found["generate, greedy"]["verdicts"]
    result = {
        name: {
            "questions_per_s": way["per_s"],
            "same_verdict": sum(a == b for a, b in zip(way["verdicts"], first, strict=True)) / len(first),
        }
        for name, way in found.items()
    }
    print(json.dumps({"questions": len(prompts), "threads": args.threads, **result}, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
