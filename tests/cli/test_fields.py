"""Fields and their options: one sentence each, defaults, ranges, choices, and who names what in an error."""

from __future__ import annotations

import dataclasses
import re

import click
import pytest

from cli.error_form import option_namer
from cli.field_options import FieldOption, config_options
from cli.group import leaf_commands
from features.config import GateConfig, KnowledgeRule, SelectionRule, SteeringConfig
from sae_train.config import CacheConfig, Decoding, SaeTrainConfig
from sae_train.errors import ConfigError
from sae_train.fields import config_of, described, from_mapping, read_field
from unlearn.auditing.policy import AuditPolicy
from unlearn.config import AuditConfig, UnlearnConfig, configure
from unlearn.removals.demo import DemoConfig
from unlearn.settings.redirection import RedirectSettings
from unlearn.settings.registry import METHOD_SETTINGS, read_params

CONFIGS = [CacheConfig, SaeTrainConfig, Decoding, KnowledgeRule, SelectionRule, GateConfig, SteeringConfig]
CONFIGS += [UnlearnConfig, AuditConfig, AuditPolicy, DemoConfig, *METHOD_SETTINGS.values()]
FIELDS = [(kind, name) for kind in CONFIGS for name in described(kind)]
OPTIONS = [(name, p) for name, command in leaf_commands() for p in command.params if isinstance(p, FieldOption)]
LEANS = re.compile(
    r"\b(of that|of them|of it|of these|of those|the same|as above|likewise|such)\b|^(It|Its|Their|That|This)\b"
)


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=[f"{k.__name__}.{n}" for k, n in FIELDS])
def test_a_field_is_described_by_one_sentence_that_stands_alone(kind, name):
    sentence = described(kind)[name].sentence
    assert sentence.endswith("."), sentence
    assert not re.search(r"\. [A-Z]", sentence), f"one sentence: {sentence}"
    assert len(sentence.split()) >= 2 and sentence[0].isupper(), sentence
    assert not LEANS.search(sentence), f"leans on another line: {sentence}"


def test_a_sentence_that_leans_is_seen():
    assert (
        LEANS.search("Weight of that.")
        and LEANS.search("Its step sizes.")
        and LEANS.search("Examples of each of them.")
    )


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=[f"{c} {o.name}" for c, o in OPTIONS])
def test_an_option_has_the_default_and_the_words_of_its_field(command, option):
    spec = described(option.kind)[option.field]
    if option.default is not None or spec.default is None:
        assert option.default in (spec.default, (spec.default,))
    else:
        assert isinstance(option.show_default, str), "a default that depends on other options says on what"
    assert option.help is not None and option.help.startswith(spec.sentence)
    assert option.multiple is (
        spec.is_many or (command, option.name) in {("train-sae", "k"), ("train-sae", "expansion")}
    )


def test_the_classes_that_commands_show_are_shown_whole():
    shown = {(name, option.kind, option.field) for name, option in OPTIONS}
    for name, kind, others in (
        ("train-sae", SaeTrainConfig, {"hook_point", "seed"}),
        ("cache-activations", CacheConfig, {"hook_points", "seed"}),
        ("audit", AuditConfig, {"seed"}),
        ("unlearn", UnlearnConfig, {"settings", "seed"}),
    ):
        assert {f for n, k, f in shown if (n, k) == (name, kind)} == set(described(kind)) - others


def outside(spec) -> object:
    """Return a value that a field's range leaves out; None where it leaves nothing out."""
    bound = re.search(r"(>=?|<=?) ([-\d.]+)", spec.limits)
    if bound is None:
        return "nonsense" if spec.choices else None
    beyond = float(bound[2]) + (-1 if bound[1].startswith(">") else 1)
    return spec.type(beyond)


RANGED = [(c, o) for c, o in OPTIONS if outside(described(o.kind)[o.field]) is not None]


@pytest.mark.parametrize(("command", "option"), RANGED, ids=[f"{c} {o.name}" for c, o in RANGED])
def test_the_library_names_the_field_and_the_command_line_its_option(command, option, wb):
    spec = described(option.kind)[option.field]
    value = outside(spec)
    needed = {"hook_point": "layers.0", "hook_points": ("layers.0",), "source": "sae"}
    given = {
        name: needed[name]
        for name, s in described(option.kind).items()
        if s.default is dataclasses.MISSING and name in needed
    }
    with pytest.raises(ConfigError) as caught:
        option.kind(**given, **{option.field: (value,) if spec.is_many else value})
    if option.field != "method":  # the registry's own error has the nearest names, too
        assert caught.value.field == option.field
    assert "--" not in str(caught.value)
    flag = next(name for name in option.opts if name.startswith("--"))
    outcome = wb(*command.split(), f"{flag}={value}")
    assert outcome.code == 2, outcome.err
    assert f"({flag})" in outcome.err and str(value) in outcome.err and "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (SaeTrainConfig, {"k": "3"}),
        (SaeTrainConfig, {"k": 3.0}),
        (SaeTrainConfig, {"k": True}),
        (SaeTrainConfig, {"lr": "1e-3"}),
        (SaeTrainConfig, {"autocast": 1}),
        (SaeTrainConfig, {"matryoshka_prefixes": [0.5, 1.0]}),
        (AuditConfig, {"attack_lrs": (1e-3, 0.0)}),
        (AuditConfig, {"attack_steps": ()}),
        (RedirectSettings, {"latent_weight": float("inf")}),
        (SteeringConfig, {"strengths": (2.0, 1.0)}),
        (CacheConfig, {"hook_points": ("layers.0", "layers.0")}),
        (CacheConfig, {"hook_points": ()}),
    ],
)
def test_configs_are_strict(kind, given):
    given = {**({"hook_point": "layers.0"} if kind is SaeTrainConfig else {}), **given}
    with pytest.raises(ConfigError) as caught:
        kind(**given)
    assert caught.value.field == list(given)[-1]


def test_an_int_is_a_float_and_a_config_is_a_dataclass():
    config = SaeTrainConfig("layers.0", lr=1)
    assert isinstance(config.lr, float)
    assert dataclasses.replace(config, k=4) == SaeTrainConfig("layers.0", k=4, lr=1.0)
    with pytest.raises(ConfigError):
        dataclasses.replace(config, k=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.k = 3  # type: ignore[misc]
    assert from_mapping(AuditConfig, {"attack_steps": [5, 6]}).attack_steps == (5, 6)
    assert hash(config) == hash(dataclasses.replace(config))


def test_unknown_and_missing_fields_name_the_nearest():
    with pytest.raises(ConfigError) as caught:
        SaeTrainConfig("layers.0", batchsize=3)  # type: ignore[call-arg]
    assert str(caught.value.expected).startswith("batch_size")
    with pytest.raises(ConfigError, match="hook_point"):
        SaeTrainConfig()  # type: ignore[call-arg]
    with pytest.raises(ConfigError) as caught:
        configure("npo", betta=0.1)
    assert str(caught.value.expected).startswith("beta")


@pytest.mark.parametrize(
    ("word", "value"),
    [("last_block=none", None), ("last-block= 3", 3), ("ridge=2", 2.0), ("positions=name-tokens", None)],
)
def test_param_reads_values_by_their_fields(word, value):
    ((name, found),) = read_params("redirect-closed-form", [word]).items()
    assert found == ("name-tokens" if name == "positions" else value)
    assert type(found) is type(getattr(configure("redirect-closed-form", **{name: found}).settings, name))


@pytest.mark.parametrize("word", ["n_blocks=0", "n_blocks=2.5", "positions=all", "frac_null=1", "last_block=-1"])
def test_param_is_checked_like_an_option(word, wb_files, wb, tmp_path):
    with pytest.raises(ConfigError) as caught:
        read_params("redirect-closed-form", [word])
    name, _, value = word.partition("=")
    assert caught.value.field == name and value in str(caught.value.got)
    words = [*wb_files.commands["unlearn"], "--method", "redirect-closed-form", "--param", word, "--overwrite"]
    outcome = wb("unlearn", *words)
    flag = "--positions" if name == "positions" else f"--param {name}"
    assert outcome.code == 2 and f"({flag})" in outcome.err, outcome.err


def test_a_former_name_is_refused_with_the_new_one(wb, wb_files):
    option = wb("train-sae", *wb_files.commands["train-sae"], "--holdout-share", 0.2, "--overwrite")
    assert option.code == 2 and "try:      --frac-holdout, as it is called now" in option.err, option.err
    for word in ("null_share=0.1", "null-share=0.1"):
        with pytest.raises(ConfigError, match="try:      frac_null"):
            read_params("redirect-closed-form", [word])
    for make, new in (
        (lambda: SaeTrainConfig("layers.0", holdout_share=0.1), "frac_holdout"),  # type: ignore[call-arg]
        (lambda: config_of(CacheConfig, None, {"hook_points": ("layers.0",), "entity_share": 0.1}), "frac_entity_rows"),
        (lambda: from_mapping(KnowledgeRule, {"min_sample_share": 0.1}), "min_frac_sample"),
        (lambda: configure("redirect", retain_share=0.1), "frac_retain"),
    ):
        with pytest.raises(ConfigError, match=f"try:      `?{new}") as caught:
            make()
        assert caught.value.exit_code == 2


def test_a_whole_config_of_another_kind_is_refused():
    whole: object = KnowledgeRule()
    with pytest.raises(ConfigError, match="CacheConfig") as caught:
        config_of(CacheConfig, whole, {}, name="rule")  # type: ignore[arg-type]
    assert caught.value.field == "rule"


def test_a_text_becomes_a_value_by_the_field():
    assert read_field(AuditConfig, "attack_lrs", "1e-4, 1e-3") == (1e-4, 1e-3)
    assert read_field(RedirectSettings, "sae_error", "no") is False
    for name, text in (("guard_steps", "many"), ("blocks", "some"), ("guard_stps", "1")):
        with pytest.raises(ConfigError):
            read_field(RedirectSettings, name, text)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("save_every = 0", "run.toml (--save-every)"),
        ("auxk-alpha = 'fast'", "run.toml (--auxk-alpha)"),
        ("eval_every = 2.5", "run.toml (--eval-every)"),
        ("matryoshka_prefix = [0.5, 2]", "run.toml (--matryoshka-prefix)"),
        ("matryoshka_prefix = [0.5, 0.25, 1]", "(--matryoshka-prefix)"),
        ("search_dtype = 'int9'", "run.toml (--search-dtype)"),
        ("steps = 3", "unknown key"),
        ("holdout_share = 0.1", "try:      frac_holdout, as it is called now"),
        ("lr-decay-share = 0.1", "try:      frac-lr-decay, as it is called now"),
    ],
)
def test_values_of_a_toml_file_pass_the_same_check(tmp_path, wb, wb_files, line, said):
    (tmp_path / "run.toml").write_text(line)
    outcome = wb("train-sae", *wb_files.commands["train-sae"], "--config", tmp_path / "run.toml", "--overwrite")
    assert outcome.code == 2 and said in outcome.err, outcome.err


def test_a_hint_of_the_library_is_said_in_options():
    command = click.Command("x")
    config_options(AuditConfig, names={"attack_steps": "--attack-step"})(command)
    error = ConfigError("too much", got=3, try_="fewer `attack_steps`, or `nothing` else", field="n_samples")
    assert str(error).splitlines()[1:] == [
        "  got:      3 (n_samples)",
        "  try:      fewer attack_steps, or nothing else",
    ]
    error.name_of = option_namer(command)
    assert str(error).splitlines()[1:] == [
        "  got:      3 (--n-samples)",
        "  try:      fewer --attack-step, or nothing else",
    ]
