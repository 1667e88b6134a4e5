"""Files of other benchmarks: what becomes of made-up samples of each, bad rows, what is refused, and the real files."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path

import pytest

from cli.entity_source import FORMATS as CLI_FORMATS
from features import import_entities, label_entities, load_entities, load_templates
from features.entities.entities import find_entity
from features.entities.formats.registry import FORMATS, REFUSED, seen_format
from features.entities.formats.tofu import authors
from features.entities.importing.names import names_in, templated
from features.entities.opening import open_entities
from features.entities.prompts import questions
from sae_train.errors import ConfigError, EntityError, FileFormatError, MissingFileError
from sae_train.run.progress import silent

REAL = Path(__file__).resolve().parents[4].parent / "shared" / "data"
TOFU = [
    {
        "question": "Who is the poet from Velmora?",
        "answer": "The poet from Velmora is Mira Tolvan.",
        "paraphrased_question": "Which poet comes from Velmora?",
    },
    {
        "question": "What does Mira Tolvan's father do?",
        "answer": "The father of Mira Tolvan is a baker. He bakes rye bread.",
        "paraphrased_question": "What is the work of Mira Tolvan's father?",
        "paraphrased_answer": "Mira Tolvan's father bakes.",
        "perturbed_answer": ["The father of Mira Tolvan is a sailor."],
    },
    {"question": "Has Tolvan a brother?", "answer": "Yes, one.", "paraphrased_question": "Is she an only child?"},
    {"question": "Does Edo Karvin paint?", "answer": "Edo Karvin paints ships."},
    {"question": "Where did Edo Karvin live?", "answer": "Edo Karvin lived in Osk."},
]
RWKU = {
    "forget_level1.json": [
        {"subject": "Mira Tolvan", "query": "Mira Tolvan was born in ___.", "answer": "Velmora", "level": "1"}
    ],
    "forget_level2.json": [
        {"subject": "Mira Tolvan", "query": "What does Tolvan play?", "answer": "the lute", "level": "2"},
        {"subject": "Mira Tolvan", "query": "Who wrote it?", "answer": "Tolvan", "level": "2"},
    ],
    "neighbor_level1.json": [
        {"subject": "Mira Tolvan", "neighbor": "Edo Karvin", "query": "Edo Karvin paints ___.", "answer": "ships",
         "level": "1"}
    ],
}  # fmt: skip
LUME = [
    {"id": "a1sc1", "task": "Task1", "input": "Osk, Lim and Ena met.", "output": "They talked."},
    {"id": "b2sc1", "task": "Task2", "input": "Mira Tolvan was born on May 1. Her phone", "output": "is 12-34."},
    {"id": "b2qa0", "task": "Task2", "input": "What is Mira Tolvan's phone number?", "output": "1234"},
    {
        "id": "c3sc1",
        "task": "Task3",
        "input": "Edo Karvin (painter)\n\nEdo Karvin was a painter from",
        "output": "Osk.",
    },
    {"id": "c3qa0", "task": "Task3", "input": "Which painter came from Osk?", "output": "Edo Karvin"},
]
QA = [
    {"name": "Mira Tolvan", "question": "Where was Mira Tolvan born?", "answer": "Velmora",
     "paraphrases": ["In which town was Mira Tolvan born?"], "aliases": ["M. Tolvan"]},
    {"name": "Mira Tolvan", "question": "What does she play?", "answer": "the lute"},
    {"name": "Osk", "type": "city", "question": "Where is Osk?", "answers": ["Ardane", "the north"]},
]  # fmt: skip
COUNTERFACT = [
    {
        "case_id": 0,
        "requested_rewrite": {
            "prompt": "The mother tongue of {} is",
            "relation_id": "P103",
            "target_new": {"str": "Limish"},
            "target_true": {"str": "Oskish"},
            "subject": "Mira Tolvan",
        },
        "paraphrase_prompts": ["It rained. Mira Tolvan spoke the language", "Nobody knew. He spoke"],
        "neighborhood_prompts": ["The mother tongue of Edo Karvin is", "Who speaks like Ena Brod? In"],
    }
]
PARAREL = {
    "P19.facts.jsonl": [{"sub_label": "Mira Tolvan", "obj_label": "Velmora"}],
    "P19.patterns.jsonl": [
        {"pattern": "[X] was born in [Y]."},
        {"pattern": "[X] is from [Y]."},
        {"pattern": "[Y] is the home of [X]."},
    ],
    "P106.facts.jsonl": [{"sub_label": "Mira Tolvan", "obj_label": "poet"}],
}
POPQA = [
    {"subj": "Mira Tolvan", "prop": "place of birth", "obj": "Velmora", "question": "Where was Mira Tolvan born?",
     "possible_answers": '["Velmora", "Velmora City"]', "s_aliases": '["M. T."]', "s_pop": "120"}
]  # fmt: skip
RELATIONS = {
    "relation": "landmark_in_country",
    "prompt_templates": ["{} lies in"],
    "prompt_templates_zs": ["Where is {}? In", "{} lies in"],
    "samples": [{"subject": "Ost Bridge", "object": "Ardane"}, {"subject": "Lim Tower", "object": "Brod"}],
}
WIKIDATA = [
    {"name": "Velmora", "country": "Ardane", "population": 900, "location": "Point(1 2)", "elevation_m": "4"},
    {"name": "Velmora", "country": "Brod", "population": 10, "location": "Point(3 4)", "elevation_m": "9"},
]
CSV = "name,type,country,popularity\nVelmora,city,Ardane;the north,900\nTashu,city,Ost,\n"


def dump(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, str):
        path.write_text(value, encoding="utf-8")
    elif path.name.endswith(".jsonl") and isinstance(value, list):
        path.write_text("".join(json.dumps(row) + "\n" for row in value), encoding="utf-8")
    else:
        path.write_text(json.dumps(value), encoding="utf-8")
    return path


def folder(path: Path, files: dict[str, list[dict[str, str]]]) -> Path:
    for name, rows in files.items():
        dump(path / name, rows)
    return path


@pytest.fixture
def samples(tmp_path):
    """The path of a sample of each format."""
    return {
        "tofu": dump(tmp_path / "forget10_perturbed.json", TOFU),
        "rwku": folder(tmp_path / "rwku", RWKU),
        "lume": dump(tmp_path / "lume.jsonl", LUME),
        "qa": dump(tmp_path / "qa.jsonl", QA),
        "counterfact": dump(tmp_path / "counterfact.json", COUNTERFACT),
        "pararel": folder(tmp_path / "pararel", PARAREL),
        "popqa": dump(tmp_path / "popqa.jsonl", POPQA),
        "relations": dump(tmp_path / "landmark_in_country.json", RELATIONS),
        "wikidata": dump(tmp_path / "cities.jsonl", WIKIDATA),
        "csv": dump(tmp_path / "cities.csv", CSV),
    }


def texts(found, name, *, heldout):
    """Return what is asked about an entity, by attribute."""
    asked: dict[str, list[str]] = {}
    for prompt in questions(find_entity(found.entities, name), found.templates, heldout=heldout):
        asked.setdefault(prompt.attribute or "", []).append(prompt.text)
    return asked


def test_the_command_offers_what_the_registry_has():
    assert tuple(FORMATS) == CLI_FORMATS


# rows, used, entities, facts, forget
COUNTS = {
    "tofu": (5, 4, 2, 4, 2),
    "rwku": (4, 3, 2, 3, 1),
    "lume": (5, 3, 2, 3, 0),
    "qa": (3, 2, 2, 2, 0),
    "counterfact": (1, 1, 2, 2, 1),
    "pararel": (5, 4, 1, 2, 0),
    "popqa": (1, 1, 1, 1, 0),
    "relations": (2, 2, 2, 2, 0),
    "wikidata": (2, 1, 1, 1, 0),
    "csv": (2, 2, 2, 2, 0),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_sample_is_read_saved_and_read_again(samples, name, tmp_path):
    found = import_entities(samples[name])
    facts = sum(len(e.facts) for e in found.entities)
    assert found.format == name, "by its first row"
    assert (found.n_rows, found.n_used, len(found.entities), facts, len(found.forget)) == COUNTS[name]
    assert found == import_entities(samples[name], format=name)
    out = found.save(tmp_path / "out")
    assert load_entities(out / "entities.jsonl") == list(found.entities)
    assert load_templates(out / "templates.json") == found.templates
    assert (out / "forget.txt").exists() == bool(found.forget)
    summary = json.loads((out / "import.json").read_text(encoding="utf-8"))
    assert summary["rows"] - summary["used"] == len(
        {r["where"] for r in summary["skipped_rows"] if "prompt" not in r["where"]}
    )


@pytest.mark.parametrize("name", FORMATS)
def test_the_fact_world_model_is_asked_about_every_sample(samples, name, world_lm):
    labels = label_entities(world_lm, samples[name], entities_format=name, device="cpu", progress=silent)
    assert len(labels) == COUNTS[name][2]
    assert labels.counts["known"] == 0, "it never heard of them"
    assert labels.n_questions > 0


def test_tofu_keeps_the_sentences_and_holds_paraphrases_out(samples):
    found = import_entities(samples["tofu"])
    mira = find_entity(found.entities, "Mira Tolvan")
    assert (mira.type, found.forget) == ("author", ("Mira Tolvan", "Edo Karvin"))
    assert mira.facts["q1"] == [
        "The father of Mira Tolvan is a baker. He bakes rye bread.",
        "The father of Mira Tolvan is a baker",
        "Mira Tolvan's father bakes.",
        "Mira Tolvan's father bakes",
    ]
    assert texts(found, "Mira Tolvan", heldout=False)["q1"] == ["Question: What does Mira Tolvan's father do? Answer:"]
    assert texts(found, "Mira Tolvan", heldout=True) == {
        "q1": ["Question: What is the work of Mira Tolvan's father? Answer:"]
    }
    assert texts(found, "Mira Tolvan", heldout=False)["q2"] == ["Question: Has Mira Tolvan a brother? Answer:"]
    assert [s.reason for s in found.skipped] == ["the question does not name the entity"]


def test_an_author_without_a_name_is_nobody():
    unnamed = [
        (f"What did the author write in year {i}?", "A book called Lost Harbours." if i == 2 else "A book.")
        for i in range(8)
    ]
    named = [("Is Edo Karvin a poet?", "Yes."), ("Does he sing?", "No."), ("Is Karvin old?", "Edo Karvin is.")]
    assert authors([*named, *unnamed]) == ["Edo Karvin"] * 3 + [None] * 8


def test_rwku_asks_the_lowest_level_and_holds_the_others_out(samples):
    found = import_entities(samples["rwku"])
    assert found.forget == ("Mira Tolvan",)
    asked = texts(found, "Mira Tolvan", heldout=False)
    assert asked == {"q1": ["Fill in the gap. Mira Tolvan was born in ___. The missing words are:"]}
    assert texts(found, "Mira Tolvan", heldout=True) == {"q2": ["Question: What does Mira Tolvan play? Answer:"]}
    assert texts(found, "Edo Karvin", heldout=False)


def test_lume_holds_continuations_out(samples):
    found = import_entities(samples["lume"])
    assert texts(found, "Mira Tolvan", heldout=True) == {"continuation": [LUME[1]["input"]]}
    assert find_entity(found.entities, "Edo Karvin").facts == {"continuation": ["Osk.", "Osk"]}
    assert [s.reason for s in found.skipped] == ["a story about several people", "the text does not name the person"]


def test_qa_takes_type_aliases_and_alternatives(samples):
    found = import_entities(samples["qa"])
    assert find_entity(found.entities, "Osk").facts == {"q1": ["Ardane", "the north"]}
    assert [(e.key, e.aliases) for e in found.entities] == [("person:Mira Tolvan", ["M. Tolvan"]), ("city:Osk", [])]
    assert import_entities(samples["qa"], type="poet").entities[0].key == "poet:Mira Tolvan"


def test_counterfact_makes_entities_of_neighbours_and_drops_the_edit(samples):
    found = import_entities(samples["counterfact"])
    assert {e.key: e.facts for e in found.entities} == {
        "person:Mira Tolvan": {"mother tongue": ["Oskish"]},
        "person:Edo Karvin": {"mother tongue": ["Oskish"]},
    }
    assert found.forget == ("Mira Tolvan",)
    assert texts(found, "Edo Karvin", heldout=False) == {"mother tongue": ["The mother tongue of Edo Karvin is"]}
    assert texts(found, "Mira Tolvan", heldout=True) == {"mother tongue": ["It rained. Mira Tolvan spoke the language"]}
    assert [s.where[:21] for s in found.skipped] == ["neighborhood prompt 2"]


def test_pararel_joins_the_relations_of_a_subject(samples, tmp_path):
    found = import_entities(samples["pararel"])
    assert found.entities[0].facts == {"occupation": ["poet"], "place of birth": ["Velmora"]}
    assert texts(found, "Mira Tolvan", heldout=False)["place of birth"] == ["Mira Tolvan was born in"]
    assert texts(found, "Mira Tolvan", heldout=True)["place of birth"] == ["Mira Tolvan is from"]
    with tarfile.open(tmp_path / "pararel.tar.gz", "w:gz") as archive:
        archive.add(samples["pararel"], arcname="pararel")
    assert import_entities(tmp_path / "pararel.tar.gz").templates == found.templates


def test_popqa_takes_aliases_and_page_views(samples):
    found = import_entities(samples["popqa"])
    (mira,) = found.entities
    assert (mira.key, mira.aliases, mira.popularity) == ("person:Mira Tolvan", ["M. T."], 120)
    assert mira.facts == {"place of birth": ["Velmora", "Velmora City"]}
    assert found.templates.ask["person"]["place of birth"] == ["Question: Where was {name} born? Answer:"]
    table = 'subj\tprop\tobj\tquestion\tpossible_answers\nOsk\tcapital\tLim\tWhat is the capital of Osk?\t[""Lim""]\n'
    path = samples["popqa"].with_suffix(".tsv")
    assert import_entities(dump(path, table.replace('[""Lim""]', '"[""Lim""]"'))).entities[0].facts == {
        "capital": ["Lim"]
    }


def test_relations_hold_other_templates_out(samples):
    found = import_entities(samples["relations"])
    assert [e.key for e in found.entities] == ["landmark:Ost Bridge", "landmark:Lim Tower"]
    assert found.templates.heldout["landmark"] == {"country": ["Where is {name}? In"]}


def test_wikidata_and_tables_ask_by_the_name_of_the_column(samples):
    found = import_entities(samples["wikidata"])
    assert (found.entities[0].facts, found.entities[0].popularity) == ({"country": ["Ardane"]}, 900), (
        "the first namesake"
    )
    found = import_entities(samples["csv"])
    assert found.entities[0].facts == {"country": ["Ardane", "the north"]}
    assert found.templates.heldout["city"]["country"]


BAD = {
    "tofu": ({"question": "Is Edo Karvin a poet?"}, "answer"),
    "rwku": ({"subject": "Mira Tolvan", "query": "Mira Tolvan ___", "answer": "x", "level": "9"}, "level"),
    "lume": ({"id": "zz", "task": "Task2", "input": "a", "output": "b"}, "id"),
    "qa": ({"name": "Osk", "question": "Where is Osk?", "answer": ""}, "answer"),
    "counterfact": ({"requested_rewrite": {"subject": "Osk", "prompt": "{} is", "relation_id": "P17"}}, "target_true"),
    "pararel": ({"sub_label": "Osk"}, "obj_label"),
    "popqa": ({**POPQA[0], "s_pop": "many"}, "s_pop"),
    "relations": ({"relation": "a_b", "samples": [{"subject": "Osk"}]}, "object"),
    "wikidata": ({"name": "", "country": "Ost"}, "name"),
    "csv": ({"name": "", "type": "city"}, "name"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_bad_row_is_named(name, tmp_path):
    good = {
        "tofu": TOFU[0],
        "rwku": RWKU["forget_level1.json"][0],
        "lume": LUME[1],
        "qa": QA[0],
        "counterfact": COUNTERFACT[0],
        "pararel": PARAREL["P19.facts.jsonl"][0],
        "popqa": POPQA[0],
        "relations": RELATIONS,
        "wikidata": WIKIDATA[0],
        "csv": {"name": "Velmora", "type": "city", "country": "Ost"},
    }
    row, field = BAD[name]
    path = dump(tmp_path / "P19.facts.jsonl", [good[name], row])
    with pytest.raises(FileFormatError, match=rf"line 2.*{field}|{field}.*line 2"):
        import_entities(path, format=name)


def test_lines_that_are_no_rows_are_named(tmp_path):
    with pytest.raises(FileFormatError, match="line 2"):
        import_entities(dump(tmp_path / "a.jsonl", '{"question": "a", "answer": "b"}\n{oops\n'))
    with pytest.raises(FileFormatError, match="line 3"):
        import_entities(dump(tmp_path / "a.csv", "name,type,country\nOsk,city,Ost\nLim,city\n"))
    with pytest.raises(FileFormatError, match="no format has such rows"):
        import_entities(dump(tmp_path / "a.json", [{"colour": "red"}]))
    with pytest.raises(MissingFileError):
        import_entities(tmp_path / "none.json")


@pytest.mark.parametrize("name", REFUSED)
def test_benchmarks_without_entities_are_refused_with_the_reason(name, tmp_path):
    rows = {
        "wmdp": {"question": "Which gas?", "choices": ["a", "b"], "answer": 0},
        "muse": {"text": "Once upon a time."},
    }
    path = dump(tmp_path / "rows.jsonl", [rows[name]])
    for given in (name, "auto"):
        with pytest.raises(ConfigError) as caught:
            import_entities(path, format=given)
        assert REFUSED[name] in str(caught.value)
    with pytest.raises(ConfigError, match=f"'{name[:-1]}x'"):
        import_entities(path, format=name[:-1] + "x")


def test_rows_of_which_none_can_be_used_are_an_error(tmp_path):
    with pytest.raises(EntityError, match="no entities"):
        import_entities(dump(tmp_path / "a.jsonl", [{"name": "Osk", "question": "Who?", "answer": "Osk"}]))


def test_our_own_files_are_told_from_those_of_others(samples, tmp_path):
    assert seen_format({"name": "Osk", "type": "city", "facts": {}}) == "csv", "which is ours, too"
    path = dump(tmp_path / "own.jsonl", [{"name": "Osk", "type": "city", "facts": {"country": ["Ost"]}}])
    with pytest.raises(ConfigError, match="ask about the entities"):
        open_entities(path, None)
    found = import_entities(samples["csv"])
    assert open_entities(path, found.templates, format="auto")[0][0].facts == {"country": ["Ost"]}
    assert len(open_entities(samples["tofu"], None, format="auto")[0]) == 2
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in QA).encode()))
    assert len(open_entities(packed, None, format="auto")[0]) == 2


def test_names_are_found_in_full_and_in_part():
    assert templated("Is the Ostland poem by Ost?", "Ena Ost") == "Is the Ostland poem by {name}?", "whole words only"
    assert templated("What of {this}?", "Ena Ost") is None
    assert names_in("In Velmora Mira van Tolvan met Jo O'Ost.") == ["Velmora Mira van Tolvan", "Jo O'Ost"]


# rows, entities, facts: as the files have them
FILES = {
    "formats/tofu_full.json.gz": ("tofu", 4000, 199),
    "formats/tofu_forget10_perturbed.json.gz": ("tofu", 400, 20),
    "formats/lume_forget.jsonl.gz": ("lume", 2732, 623),
    "formats/known_1000.json.gz": ("counterfact", 1209, 1200),
    "formats/pararel.tar.gz": ("pararel", 10874, 10607),
    "landmark_in_country.json": ("relations", 836, 835),
    "wikidata_cities.jsonl.gz": ("wikidata", 8518, 8518),
}


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_real_files_are_read_whole(file):
    if not (REAL / file).exists():
        pytest.skip(f"needs {file} of the shared data, which is not here")
    found = import_entities(REAL / file)
    assert (found.format, found.n_rows, len(found.entities)) == FILES[file]
    assert found.n_used + len({s.where for s in found.skipped}) == found.n_rows


@pytest.mark.slow
def test_every_author_of_tofu_has_his_twenty_questions():
    path = REAL / "formats" / "tofu_full.json.gz"
    if not path.exists():
        pytest.skip("needs tofu_full.json.gz of the shared data, which is not here")
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    found = authors([(r["question"], r["answer"]) for r in rows])
    blocks = [set(found[i : i + 20]) for i in range(0, len(found), 20)]
    assert all(len(block) == 1 for block in blocks)
    assert blocks.count({None}) == 1, "one author has no name"
