"""Wikidata cities as an entity set: a question of one fact, on names a model knows and names it does not.

    python -m benchmarks.entities.cities --data DATA --out RUN [--model MODEL] [--n 2500]

DATA holds `wikidata_cities.jsonl.gz` (8,518 cities, largest first). RUN gets `entities.jsonl` (population as
`popularity`) and `templates.json`; with a model also `labels.jsonl`.

Three countries hold 60 % of the file. Somebody who knows no city and always says the same country would seem to know
every tenth, and a latent of Romanian names would seem one of unknown names: so no country gives more than 200, spread
evenly over its sizes.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

N_CITIES = 2_500
MOST_PER_COUNTRY = 200
ALIASES = {
    "Bosnia and Herzegovina": ["Bosnia"],
    "Cape Verde": ["Cabo Verde"],
    "Czech Republic": ["Czechia"],
    "Democratic Republic of the Congo": ["Congo", "DRC"],
    "East Timor": ["Timor-Leste"],
    "Eswatini": ["Swaziland"],
    "Iran": ["Persia"],
    "Ivory Coast": ["Côte d'Ivoire"],
    "Kingdom of the Netherlands": ["Netherlands", "Holland"],
    "Myanmar": ["Burma"],
    "Netherlands": ["Holland"],
    "North Korea": ["Korea"],
    "North Macedonia": ["Macedonia"],
    "People's Republic of China": ["China"],
    "Republic of Ireland": ["Ireland"],
    "Republic of the Congo": ["Congo"],
    "Russia": ["Russian Federation", "Soviet Union"],
    "South Korea": ["Korea"],
    "State of Palestine": ["Palestine"],
    "Taiwan": ["China"],
    "The Bahamas": ["Bahamas"],
    "Turkey": ["Türkiye"],
    "Türkiye": ["Turkey"],
    "United Arab Emirates": ["UAE", "Emirates"],
    "United Kingdom": ["UK", "England", "Scotland", "Wales", "Great Britain", "Northern Ireland"],
    "United States of America": ["United States", "USA", "US", "U.S.", "America"],
}
TEMPLATES = {
    "city": {
        "mention": ["The city of {name}", "I travelled to {name}", "We talked about {name}", "A map of {name}"],
        "country": {
            "ask": [
                "The city of {name} is located in the country of",
                "People who live in {name} live in the country of",
                "If you visit {name}, you are in the country of",
                "On the map, {name} is a city in the country of",
                "The airport of {name} is in the country of",
            ],
            "heldout": [
                "The country in which {name} lies is",
                "A citizen of {name} is a citizen of the country of",
                "The city called {name} is a city located in the country of",
            ],
        },
    }
}


def spread(rows: list[Any], n: int) -> list[Any]:
    """Return at most `n` rows at even distances.

    Example:
        >>> spread([0, 1, 2, 3, 4, 5], 3)
        [0, 2, 4]
    """
    return rows if len(rows) <= n else [rows[i * len(rows) // n] for i in range(n)]


def read_cities(data: Path) -> list[dict[str, Any]]:
    """Return the rows of the file that have a name and a country, largest city first."""
    with gzip.open(data / "wikidata_cities.jsonl.gz", "rt", encoding="utf-8") as stream:
        return [r for r in map(json.loads, stream) if r.get("country") and r.get("name")]


def city_line(name: str, country: str, **more: Any) -> dict[str, Any]:
    """Return a city as a line of an entity file, with every accepted name of its country."""
    return {"name": name, "type": "city", "facts": {"country": [country, *ALIASES.get(country, [])]}, **more}


def city_entities(data: Path, n: int = N_CITIES) -> list[dict[str, Any]]:
    """Return `n` cities as lines of an entity file, largest first."""
    rows = read_cities(data)
    by_country: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        by_country[row["country"]].append(index)
    kept = sorted(i for members in by_country.values() for i in spread(members, MOST_PER_COUNTRY))
    chosen = (rows[i] for i in spread(kept, n))
    return [city_line(row["name"], row["country"], popularity=row["population"]) for row in chosen]


def write_inputs(data: Path, out: Path, n: int = N_CITIES) -> tuple[Path, Path]:
    """Write `entities.jsonl` and `templates.json`; return their paths."""
    out.mkdir(parents=True, exist_ok=True)
    entities, templates = out / "entities.jsonl", out / "templates.json"
    lines = [json.dumps(e, ensure_ascii=False) for e in city_entities(data, n)]
    entities.write_text("\n".join(lines) + "\n", encoding="utf-8")
    templates.write_text(json.dumps(TEMPLATES, indent=1), encoding="utf-8")
    return entities, templates


def main() -> None:
    """Write the set and, with a model, its labels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--n", type=int, default=N_CITIES)
    args = parser.parse_args()
    entities, templates = write_inputs(args.data, args.out, args.n)
    if args.model:
        from features import label_entities  # loads a language model: only those who ask one pay for it

        label_entities(args.model, entities, templates=templates, out=args.out / "labels.jsonl", overwrite=True)


if __name__ == "__main__":
    main()
