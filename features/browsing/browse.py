"""The station that makes a browser of all latents of an SAE: read a store once, look at the weights, explain, write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from features.browsing.browser import Examples, LatentBrowser
from features.browsing.collect import collect
from features.browsing.explanations import Answer, explain, explain_request, read_answers, score_request
from features.browsing.passages import find_passages
from features.browsing.quizzes import drawn_latents, quizzes_of
from features.browsing.relatives import Lens, lens_of, similar_latents, twins_of
from features.config import BrowseConfig
from sae_train.activations.several import StoreSource, opened_store
from sae_train.activations.store import ActivationStore, check_tokenizer
from sae_train.fields import config_of
from sae_train.lm.models import LanguageModel, as_lm
from sae_train.quality.evaluate import check_width
from sae_train.run.outputs import claimed
from sae_train.run.progress import Progress, shown
from sae_train.saes.base import Sae, as_sae, require_autoencoder
from sae_train.saes.interop import sae_hash


def browse(
    sae: Sae | str | Path,
    store: StoreSource,
    *,
    lm: LanguageModel | str | Path | None = None,
    other: Sae | str | Path | None = None,
    answers: str | Path | None = None,
    export: bool = False,
    out: str | Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
    config: BrowseConfig | None = None,
    **settings: Any,
) -> LatentBrowser:
    """Look at all latents of an SAE on the running text of a store, in one pass, and write a page to browse them.

    Contexts of entities that were mixed into the store are left out. Memory does not grow with the store.

    Args:
        sae: The SAE, or what `Sae.load` takes.
        store: Activations, open or as a path.
        lm: The language model, or what `load_lm` takes: gives tokens their text, and the tokens that latents promote.
        other: Another SAE of the same place, in which every latent's twin is looked for.
        answers: Explanations, and answers to the tasks that test them (`features/browsing/explanations.py`).
        export: Also write the latents in SAEDashboard's files, which Neuronpedia reads, beside the page.
        out: Folder of the page; None leaves nothing on the disk, `save` writes it later.
        device: Where what is loaded here lives.
        overwrite: Replace `out`.
        progress: Shows how far it is; by default whatever there is: terminal, notebook, log.
        config: Settings together, instead of one by one.
        settings: Fields of `BrowseConfig`.

    Raises:
        ConfigError: A setting does not exist or is out of range, the SAE is a transcoder or crosscoder, the model has
            another tokenizer than the store's, or there is no running text.
        HookPointError: The store has no such hook point.
        ShapeError: An SAE reads activations of another width.
        FileFormatError: The answers cannot be read, or are about other texts.
        OutputExistsError: `out` is there already.
    """
    chosen = config_of(BrowseConfig, config, settings, can_change=True)
    show = progress or shown
    with claimed(out, overwrite=overwrite), opened_store(store) as opened:
        sae = require_autoencoder(as_sae(sae, device=device), "browsing")
        hook_point = opened.hook_point(sae.hook_point)
        check_width(sae.d_in, opened, hook_point)
        given = None if answers is None else read_answers(Path(answers), sae.d_sae)
        second = None if other is None else require_autoencoder(as_sae(other, device=device), "browsing")
        # What the weights say comes first: it refuses what does not fit before the long pass.
        twins = None if second is None else twins_of(sae, second, show)
        read = _Model() if lm is None else _read_model(lm, sae, opened, chosen, device=device, progress=show)
        passages = find_passages(opened, max_rows=chosen.max_rows)
        found = collect(sae, opened, hook_point, passages, chosen, show)
        browser = LatentBrowser(
            hook_point=hook_point,
            sae=sae.name,
            model=read.name,
            config=chosen,
            passages=passages,
            top=Examples.of(found.top, chosen.n_before),
            sampled=Examples.of(found.sampled, chosen.n_before),
            strength=found.strength,
            similar=similar_latents(sae, chosen.n_neighbours, show),
            together=found.together,
            twins=twins,
            lens=read.lens,
            tokenizer=read.tokenizer,
            identity=_identity(sae, opened, second),
        )
        browser = _explained(browser, sae, opened, given or {}, answers)
        if out is not None:
            browser.save(out, export=export, overwrite=overwrite, progress=show)
    return browser


class _Model(NamedTuple):
    """What of a language model is kept; the weights of one that was loaded here are free again before the pass."""

    name: str = ""
    tokenizer: Any = None
    lens: Lens | None = None


def _read_model(
    lm: LanguageModel | str | Path,
    sae: Sae,
    store: ActivationStore,
    config: BrowseConfig,
    *,
    device: str,
    progress: Progress,
) -> _Model:
    """Look at the latents through the model's unembedding."""
    model = as_lm(lm, device=device)
    check_tokenizer(store, model.tokenizer)
    return _Model(model.name, model.tokenizer, lens_of(model, sae, config.n_words, progress))


def _explained(
    browser: LatentBrowser, sae: Sae, store: ActivationStore, given: Mapping[int, Answer], path: str | Path | None
) -> LatentBrowser:
    """Add explanations with their scores, and what is to be asked next."""
    requests: dict[str, list[dict[str, Any]]] = {}
    if browser.config.n_explained:
        drawn = drawn_latents(browser, browser.config.n_explained)
        requests["explain.json"] = [explain_request(browser.record(j), browser.words()) for j in drawn]
    quizzes = quizzes_of(browser, sae, store, [j for j in given if browser.strength.n_fired[j]])
    if quizzes:
        requests["score.json"] = [score_request(j, given[j].explanation, quiz) for j, quiz in quizzes.items()]
    explained = explain(given, quizzes, Path(path)) if path is not None else {}
    return replace(browser, requests=requests, explained=explained)


def _identity(sae: Sae, store: ActivationStore, other: Sae | None) -> dict[str, Any]:
    """Return what decides the content of a browser."""
    found = {
        "sae": str(sae.folder or sae.name),
        "sae_hash": sae_hash(sae),
        "store": str(store.path),
        **store.identity(),
    }
    return (
        found if other is None else {**found, "other": str(other.folder or other.name), "other_hash": sae_hash(other)}
    )
