"""Latents in the files of SAEDashboard, which Neuronpedia takes in. They are read by `neuronpedia_import.py`.

A folder of `batch-<n>.json`. Each holds `model_id`, `layer`, `sae_set` and `features`; each feature its index, the
share of tokens on which it fires (`frac_nonzero`), a histogram of the activations above zero (`freq_hist_data_*`:
middles of bins, counts), the logits it raises and lowers (`pos_*`, `neg_*`), and `activations`: tokens and values of
examples with the range of activations their group stands for (`bin_min`, `bin_max`, and `bin_contains`, its share of
the firings; a `bin_min` of -1 marks the strongest ones).

Source of the form: `NeuronpediaDashboardFeature` and the converter of jbloomAus/SAEDashboard, as of 2025. What we do
not measure (alignment with neurons, correlated neurons, the histogram of logits, weights by head) is an empty list
there. `correlated_features_*` stays empty as well: it holds correlations of activations, ours are shares of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from features.browsing.passages import PASSAGE_TOKENS
from features.browsing.records import About, Catalogue, Example, LatentRecord, group_of
from sae_train.run.runs import write_json

BATCH = 128  # latents of a file
DIGITS = 3  # behind the point, as there
NOT_MEASURED = (
    "neuron_alignment_indices",
    "neuron_alignment_values",
    "neuron_alignment_l1",
    "correlated_neurons_indices",
    "correlated_neurons_l1",
    "correlated_neurons_pearson",
    "correlated_features_indices",
    "correlated_features_l1",
    "correlated_features_pearson",
    "logits_hist_data_bar_heights",
    "logits_hist_data_bar_values",
    "decoder_weights_dist",
)


def write_batches(catalogue: Catalogue, folder: Path, *, dataset: str = "") -> list[Path]:
    """Write all latents into `batch-<n>.json`; return the paths.

    Args:
        catalogue: The latents.
        folder: Where.
        dataset: Name of the text.
    """
    about, words = catalogue.about(), catalogue.words()
    digits = "".join(c for c in about.hook_point.split(".")[1] if c.isdigit()) if "." in about.hook_point else ""
    head = {"model_id": about.model, "layer": int(digits or 0), "sae_set": about.sae}
    paths = []
    for number, start in enumerate(range(0, catalogue.n_latents, BATCH)):
        features = [_feature(r, words, about, dataset) for r in catalogue.records(start, start + BATCH)]
        paths.append(folder / f"batch-{number}.json")
        write_json(paths[-1], {**head, "features": features})
    return paths


def _feature(record: LatentRecord, words: Mapping[int, str], about: About, dataset: str) -> dict[str, Any]:
    """Return one latent as SAEDashboard has it."""
    edges = record.edges
    return {
        "feature_index": record.latent,
        **{name: [] for name in NOT_MEASURED},
        "pos_str": [words[r.number] for r in record.promoted],
        "pos_values": [round(r.value, DIGITS) for r in record.promoted],
        "neg_str": [words[r.number] for r in record.suppressed],
        "neg_values": [round(r.value, DIGITS) for r in record.suppressed],
        "frac_nonzero": record.rate,
        "freq_hist_data_bar_values": [
            round((a + b) / 2, DIGITS + 3) for a, b in zip(edges[:-1], edges[1:], strict=True)
        ],
        "freq_hist_data_bar_heights": record.counts,
        "n_prompts_total": about.n_passages,
        "n_tokens_in_prompt": PASSAGE_TOKENS if about.n_passages else 0,
        "dataset": dataset,
        "activations": _activations(record, words),
    }


def _activations(record: LatentRecord, words: Mapping[int, str]) -> list[dict[str, Any]]:
    """Return the examples: the strongest ones, then those drawn at random, each with the range of its group."""
    n = len(record.sampled)
    found = [_activation(e, words, (-1.0, record.max, -1.0)) for e in record.top]
    for i, example in enumerate(record.sampled):
        group = [e.value for k, e in enumerate(record.sampled) if group_of(k, n) == group_of(i, n)]
        found.append(_activation(example, words, (min(group), max(group), len(group) / n)))
    return found


def _activation(example: Example, words: Mapping[int, str], group: tuple[float, float, float]) -> dict[str, Any]:
    """Return one example."""
    return {
        "bin_min": round(group[0], DIGITS),
        "bin_max": round(group[1], DIGITS),
        "bin_contains": round(group[2], DIGITS),
        "tokens": [words[i] for i in example.token_ids],
        "values": [round(v, DIGITS) for v in example.values],
    }
