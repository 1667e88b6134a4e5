"""Wikidata's properties in benchmarks of facts: whom each is about, and what it is called."""

from __future__ import annotations

PROPERTIES = {
    "P17": ("place", "country"),
    "P19": ("person", "place of birth"),
    "P20": ("person", "place of death"),
    "P22": ("person", "father"),
    "P25": ("person", "mother"),
    "P27": ("person", "citizenship"),
    "P30": ("place", "continent"),
    "P31": ("thing", "kind"),
    "P36": ("place", "capital"),
    "P37": ("place", "official language"),
    "P39": ("person", "office"),
    "P47": ("place", "neighbour"),
    "P50": ("work", "author"),
    "P57": ("work", "director"),
    "P58": ("work", "screenwriter"),
    "P86": ("work", "composer"),
    "P101": ("person", "field of work"),
    "P103": ("person", "mother tongue"),
    "P106": ("person", "occupation"),
    "P108": ("person", "employer"),
    "P127": ("thing", "owner"),
    "P131": ("place", "region"),
    "P136": ("artist", "genre"),
    "P138": ("thing", "namesake"),
    "P140": ("person", "religion"),
    "P159": ("company", "headquarters"),
    "P162": ("work", "producer"),
    "P176": ("product", "manufacturer"),
    "P178": ("product", "developer"),
    "P190": ("place", "twin city"),
    "P264": ("artist", "record label"),
    "P276": ("thing", "location"),
    "P279": ("thing", "superclass"),
    "P361": ("thing", "whole"),
    "P364": ("work", "original language"),
    "P407": ("work", "language"),
    "P413": ("person", "position"),
    "P449": ("work", "broadcaster"),
    "P463": ("person", "membership"),
    "P495": ("work", "country of origin"),
    "P527": ("thing", "part"),
    "P530": ("place", "partner country"),
    "P641": ("person", "sport"),
    "P740": ("company", "place of foundation"),
    "P937": ("person", "place of work"),
    "P1001": ("thing", "jurisdiction"),
    "P1303": ("person", "instrument"),
    "P1376": ("city", "country of which it is the capital"),
    "P1412": ("person", "language"),
}
BY_NAME = {  # as PopQA calls them, where that differs
    "capital of": ("city", "capital of"),
    "color": ("thing", "color"),
}


def subject_of(relation: str, kind: str) -> tuple[str, str]:
    """Return the type of a relation's subjects and the name of what is asked.

    Args:
        relation: Id or name of a property.
        kind: The type where the table has none.

    Example:
        >>> subject_of("P19", "thing"), subject_of("place of birth", "thing"), subject_of("rival", "thing")
        (('person', 'place of birth'), ('person', 'place of birth'), ('thing', 'rival'))
    """
    if relation in PROPERTIES:
        return PROPERTIES[relation]
    named = {name: (of, name) for of, name in PROPERTIES.values()} | BY_NAME
    return named.get(relation, (kind, relation))
