"""The package *sae-probes* (Kantamneni et al. 2025, arXiv:2502.16681): its texts, its splits, its probes.

The package is optional and imported here only. It brings 113 sets of labelled texts with it, so nothing is downloaded.
Of its functions those are used that work on arrays; its own way to activations (TransformerLens, files in a cache that
are read as pickles) is not. Given the same activations, the figures are the package's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_train.errors import ConfigError, nearest_first

INSTALL = "pip install 'sae-workbench[probes]'"
ALL = "all"  # stands for every dataset
MOST_TEXTS = 5000  # of a dataset, the first ones (`get_xy_traintest`)
MOST_TRAINED = 1024  # texts that a probe is trained on (`generate_sae_activations_normal`)
LEAST_TESTED = 100  # texts kept back from training (there too)
MOST_TOKENS = 1024  # of a text, the last ones (`generate_dataset_activations`)


class Drawn(NamedTuple):
    """Texts of a dataset, drawn as the package draws them; both classes equally often.

    Attributes:
        train, test: Texts.
        train_labels, test_labels: Which class each is of.
    """

    train: list[str]
    test: list[str]
    train_labels: Bool[np.ndarray, " n_train"]
    test_labels: Bool[np.ndarray, " n_test"]


class Probed(NamedTuple):
    """A probe's figures on the test texts.

    Attributes:
        auroc, accuracy: The package's.
        scores: Probability of the positive class, (n_test,).
    """

    auroc: float
    accuracy: float
    scores: Float[np.ndarray, " n_test"]


def chosen_datasets(names: Sequence[str]) -> list[str]:
    """Return the datasets that these names stand for, each once; `all` is every one.

    Raises:
        ConfigError: The package is not installed or has no dataset of that name, or none is named.
    """
    if not names:
        raise ConfigError("no dataset to probe", got="none", field="probes", expected=f"names, or {ALL}")
    if find_spec("sae_probes") is None:
        raise ConfigError(
            "sae-probes is not installed",
            got=f"{names[0]}",
            field="probes",
            expected="the package sae-probes",
            try_=INSTALL,
        )
    known = list(_part("utils_data").get_dataset_sizes())
    for name in names:
        if name not in (*known, ALL):
            raise ConfigError(
                f"sae-probes has no dataset '{name}'",
                got=f"{name}",
                field="probes",
                expected=f"{nearest_first(name, known)}, or {ALL}",
            )
    return known if ALL in names else list(dict.fromkeys(names))


def drawn_texts(name: str, *, max_test: int | None, seed: int) -> Drawn:
    """Draw the texts to train and to test on, those of the package's setting `normal`.

    Args:
        name: The dataset.
        max_test: Most texts to test on; the texts to train on stay the same. By default all that are left.
        seed: Seed of the draw; the package's own default is 42.
    """
    data = _part("utils_data")
    texts, labels = data.read_numbered_dataset_df(name)["prompt"].astype(str), data.get_yvals(name)[:MOST_TEXTS]
    n_train = min(data.get_dataset_sizes()[name] - LEAST_TESTED, MOST_TRAINED)
    n_test = len(labels) - n_train - 1
    n_test = n_test if max_test is None else min(n_test, max_test)
    train, test = data.get_train_test_indices(labels, n_train, n_test, 0.5, seed)
    return Drawn(list(texts.iloc[train]), list(texts.iloc[test]), labels[train] == 1, labels[test] == 1)


def ranked_latents(latents: Float[Tensor, "n_train d_sae"], labels: Bool[np.ndarray, " n_train"]) -> Int[Tensor, " n"]:
    """Return all latents, first the one whose mean differs most between the classes, in units of its active mean."""
    evals = _part("run_sae_evals")
    return evals.get_sorted_indices(latents, torch.from_numpy(labels.astype(np.int64)), evals.mean_act_normalization)


def probe(
    train: Float[np.ndarray, "n_train d"],
    train_labels: Bool[np.ndarray, " n_train"],
    test: Float[np.ndarray, "n_test d"],
    test_labels: Bool[np.ndarray, " n_test"],
    *,
    penalty: str,
    seed: int,
) -> Probed:
    """Fit a logistic regression, its penalty chosen on a part of the training texts, and test it.

    Args:
        train, test: Activations, or some of the latents.
        train_labels, test_labels: Which class each row is of.
        penalty: `l1`, as the package's benchmark of SAEs has it, or `l2`, as its probes of activations have it.
        seed: Of scikit-learn's solver and of the order of rows.
    """
    y_train, y_test = train_labels.astype(np.int64), test_labels.astype(np.int64)
    with _quiet():
        found = _part("utils_training").find_best_reg(
            X_train=train, y_train=y_train, X_test=test, y_test=y_test, penalty=penalty, seed=seed
        )
        scores = found.classifier.predict_proba(test)[:, 1]
    return Probed(found.metrics.test_auc, found.metrics.test_acc, scores)


@cache
def _part(name: str) -> Any:
    """Import a module of the package, which takes seconds: it reads all its texts.

    Raises:
        ConfigError: Something that the package needs is missing.
    """
    try:
        with _quiet():
            return import_module(f"sae_probes.{name}")
    except ImportError as error:
        raise ConfigError(
            "sae-probes cannot be imported",
            got=str(error),
            expected="the package sae-probes and what it needs",
            try_=INSTALL,
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave the package's filters of warnings, and scikit-learn's notes about arguments it uses, inside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
