"""Draw the figures of the documentation: plain SVG, readable in light and dark and in print, on a narrow screen too.

    python docs/figures.py            write them to docs/img
    python docs/figures.py --check    only say which are not up to date; exit code 1 if any

All are schematic: they show what is done, and hold nothing that was measured. A reader's dark mode is followed by the
figure itself (`prefers-color-scheme`), on a panel of its own, so that it can be read where the page does not follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path

import click

IMAGES = Path(__file__).resolve().parent / "img"
WIDTH = 600  # of the drawing; on a phone it is shown at 340, and text of 16 is then still 9
LIGHT = {
    "panel": "fill:#f7f7fa",
    "box": "fill:#ffffff;stroke:#5b6cb5",
    "good": "fill:#e3f1e4;stroke:#3f7d46",
    "bad": "fill:#fbeaea;stroke:#b04848",
    "line": "stroke:#5b6cb5;fill:none",
    "grey": "stroke:#8a90a8;fill:none",
    "head": "fill:#5b6cb5",
    "known": "fill:#5b6cb5",
    "unknown": "fill:#8a90a8",
    "target": "fill:#c4661f",
    "text": "fill:#1d2233",
    "note": "fill:#4a5170",
}
DARK = {
    "panel": "fill:#1f2230",
    "box": "fill:#2b3045;stroke:#93a1e6",
    "good": "fill:#23402a;stroke:#7cc088",
    "bad": "fill:#47282b;stroke:#e08c8c",
    "line": "stroke:#93a1e6;fill:none",
    "grey": "stroke:#8f96b0;fill:none",
    "head": "fill:#93a1e6",
    "known": "fill:#93a1e6",
    "unknown": "fill:#8f96b0",
    "target": "fill:#f0a15c",
    "text": "fill:#eef0f8",
    "note": "fill:#c0c6de",
}
STYLE = "text{font-family:system-ui,sans-serif;stroke:none}.b{font-weight:600}.m{font-family:ui-monospace,monospace}"


def _rules(colours: dict[str, str]) -> str:
    """Return colours as rules of CSS."""
    return "".join(f".{name}{{{value}}}" for name, value in colours.items())


def figure(label: str, height: int, parts: Iterable[str], *, width: int = WIDTH) -> str:
    """Return a whole SVG: its colours, its panel, its parts; `label` is read aloud in its place."""
    arrow = '<path class="head" d="M0 0 L8 4 L0 8 z"/>'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
            f' font-size="16" text-anchor="middle" role="img" aria-label="{escape(label)}">',
            f"<style>{STYLE}{_rules(LIGHT)}@media (prefers-color-scheme:dark){{{_rules(DARK)}}}</style>",
            f'<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
            f"{arrow}</marker></defs>",
            f'<rect class="panel" width="{width}" height="{height}" rx="10"/>',
            *parts,
            "</svg>\n",
        ]
    )


def text(x: float, y: float, words: str, kind: str = "text", *, anchor: str = "", size: int = 0) -> str:
    """Return words at a place; `kind` is a colour, with `b` bold and `m` in fixed width."""
    extra = (f' text-anchor="{anchor}"' if anchor else "") + (f' font-size="{size}"' if size else "")
    return f'<text x="{x:g}" y="{y:g}" class="{kind}"{extra}>{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, *lines: str, kind: str = "box") -> str:
    """Return a box with lines of words in its middle, the first of them bold."""
    first = y + height / 2 - 10 * (len(lines) - 1) + 5.5
    words = [
        text(x + width / 2, first + 20 * i, line, "text" if i else "text b", size=15 if i else 0)
        for i, line in enumerate(lines)
    ]
    frame = (
        f'<rect class="{kind}" stroke-width="1.5" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8"/>'
    )
    return "\n".join([frame, *words])


def arrow(path: str, kind: str = "line") -> str:
    """Return a line with a head at its end."""
    return f'<path class="{kind}" stroke-width="1.5" marker-end="url(#a)" d="{path}"/>'


def dot(x: float, y: float, kind: str, radius: float = 7) -> str:
    """Return a filled circle."""
    return f'<circle class="{kind}" cx="{x:g}" cy="{y:g}" r="{radius:g}"/>'


def walk() -> str:
    """Return the whole way, station by station."""
    stations = [
        box(12, 40, 176, 62, "language model", "and text"),
        box(212, 40, 176, 62, "activations", "on disk (HDF5)"),
        box(412, 40, 176, 62, "autoencoder", "sparse, trained here"),
        box(12, 160, 176, 62, "entities", "known or unknown?"),
        box(412, 160, 176, 62, "latents", "known vs unknown"),
        box(212, 280, 176, 62, "audit", "how deep is it?", kind="good"),
        box(412, 280, 176, 62, "unlearned model", "redirected"),
    ]
    ways = ["M188 71 H206", "M388 71 H406", "M500 102 V154", "M188 191 H406", "M500 222 V274", "M412 311 H394"]
    commands = {
        (300, 30): "cache-activations",
        (500, 30): "train-sae",
        (100, 243): "label-entities",
        (297, 180): "find-entity-latents",
        (300, 362): "audit",
        (500, 362): "unlearn",
    }
    names = [text(x, y, f"wb {name}", "note m", size=14) for (x, y), name in commands.items()]
    return figure(
        "From a language model and text to an audited model that has forgotten",
        380,
        [*stations, *map(arrow, ways), *names],
    )


def sae() -> str:
    """Return a sparse autoencoder: an activation, many latents of which few are not zero, its reconstruction."""
    heights, rebuilt = [34, -22, 48, 12, -40, 27, -9, 38], [30, -26, 44, 15, -33, 24, -12, 40]
    bars = [
        f'<rect class="{kind}" x="{x + 15 * i}" y="{120 - max(h, 0)}" width="10" height="{abs(h)}"/>'
        for kind, x, values in (("known", 35, heights), ("target", 450, rebuilt))
        for i, h in enumerate(values)
    ]
    firing = {(1, 2), (4, 0), (6, 5)}
    latents = [
        dot(225 + 21 * c, 70 + 20 * r, "known", 7)
        if (c, r) in firing
        else f'<circle class="grey" cx="{225 + 21 * c}" cy="{70 + 20 * r}" r="6"/>'
        for c in range(8)
        for r in range(6)
    ]
    words = [
        text(92, 40, "activation", "text b"),
        text(298, 40, "latents", "text b"),
        text(508, 40, "reconstruction", "text b"),
        text(92, 195, "many numbers", "note", size=15),
        text(298, 205, "many more, but only", "note", size=15),
        text(298, 224, "a few are not zero", "note", size=15),
        text(508, 195, "the sum of their", "note", size=15),
        text(508, 214, "directions", "note", size=15),
        text(182, 100, "read", "note", size=14),
        text(415, 100, "write", "note", size=14),
        text(300, 292, "what is missing is the SAE error", "text", size=15),
        text(590, 312, "schematic", "note", anchor="end", size=13),
    ]
    gap = '<path class="grey" stroke-width="1.5" stroke-dasharray="5 4" d="M92 212 V262 H508 V226"/>'
    ways = ["M160 120 H204", "M392 120 H436"]
    label = "An activation is read into many latents, few of them not zero; their directions add up to a reconstruction"
    return figure(label, 322, [*bars, *latents, *map(arrow, ways), gap, *words])


def labels() -> str:
    """Return how the answers to several wordings of several questions make a name known, between, or unknown."""
    cases = [
        ("known", "good", "two attributes", ["●●●", "●●○", "○○○"]),
        ("between", "box", "some right", ["●●○", "○○○", "●○○"]),
        ("unknown", "box", "none right", ["○○○", "○○○", "○○○"]),
    ]
    parts = [text(300, 32, "One name, three attributes, each asked in three wordings", "text", size=16)]
    for column, (verdict, kind, why, rows) in enumerate(cases):
        left = 70 + 178 * column
        for r, row in enumerate(rows):
            for c, mark in enumerate(row):
                x, y = left + 38 + 34 * c, 76 + 38 * r
                parts.append(
                    dot(x, y, "known", 10) if mark == "●" else f'<circle class="grey" cx="{x}" cy="{y}" r="9"/>'
                )
        parts.append(box(left - 7, 190, 160, 58, verdict, why, kind=kind))
    parts += [text(38, 81 + 38 * r, word, "note", size=14) for r, word in enumerate(["country", "river", "food"])]
    parts += [
        dot(150, 280, "known", 8),
        text(164, 285, "right answer", "note", anchor="start", size=15),
        '<circle class="grey" cx="300" cy="280" r="7"/>',
        text(314, 285, "wrong or none", "note", anchor="start", size=15),
        text(590, 312, "schematic", "note", anchor="end", size=13),
    ]
    return figure("Right and wrong answers about a known, a between and an unknown name", 322, parts)


def gate() -> str:
    """Return activation patching: the activation at a name is replaced, and the answer is asked for again."""
    parts = []
    for y, name, answer, kind in (
        (62, "known name", "right answer", "good"),
        (192, "unknown name", "any answer", "box"),
    ):
        parts += [
            box(12, y, 156, 52, name),
            box(225, y, 140, 52, "activation", "at one block"),
            box(440, y, 145, 52, answer, kind=kind),
            arrow(f"M168 {y + 26} H219"),
            arrow(f"M365 {y + 26} H434"),
        ]
    parts += [
        arrow("M295 192 V122"),
        text(307, 150, "patched in: the whole activation,", "note", anchor="start", size=15),
        text(307, 169, "its latents, or its SAE error", "note", anchor="start", size=15),
        text(300, 286, "Is the right answer gone? Then the knowledge passes here,", "text", size=16),
        text(300, 308, "in the part that was patched.", "text", size=16),
        text(300, 32, "The same question about two names", "text b"),
        text(590, 332, "schematic", "note", anchor="end", size=13),
    ]
    label = "The activation at a known name is replaced by that at an unknown one, and the question is asked again"
    return figure(label, 342, parts)


def redirection() -> str:
    """Return redirection: targets go to where names lie that the model never knew; all others stay."""
    known = [(70, 120), (105, 80), (140, 150), (60, 180), (110, 215), (165, 100), (175, 200), (90, 255)]
    unknown = [(430, 90), (480, 70), (530, 120), (455, 140), (545, 190), (415, 200), (500, 240), (450, 260), (540, 255)]
    targets = {(190, 135): (415, 122), (150, 180): (480, 165), (175, 240): (430, 230)}
    parts = [dot(x, y, "known") for x, y in known] + [dot(x, y, "unknown") for x, y in unknown]
    for (x, y), (to_x, to_y) in targets.items():
        parts += [
            dot(x, y, "target", 8),
            arrow(f"M{x + 12} {y} Q{(x + to_x) / 2:g} {min(y, to_y) - 22} {to_x - 13} {to_y}"),
            f'<circle class="target" cx="{to_x}" cy="{to_y}" r="8" opacity="0.6"/>',
        ]
        parts.append(dot(to_x + 17, to_y + 5, "unknown"))
    parts += [
        text(120, 42, "known names", "text b"),
        text(485, 42, "unknown names", "text b"),
        text(300, 70, "activations and answers", "note", size=15),
        text(120, 292, "others stay where they are", "note", size=15),
        text(460, 292, "each target beside its partner", "note", size=15),
        dot(30, 318, "target", 7),
        text(44, 323, "target of the removal", "note", anchor="start", size=15),
        text(590, 332, "schematic", "note", anchor="end", size=13),
    ]
    label = "Targets are moved from among the known names to their partners among the unknown ones; other names stay"
    return figure(label, 342, parts)


def audit() -> str:
    """Return what an audit compares, in four groups of checks, and its three verdicts."""
    checks = [
        ("says", "answers,", "rankings"),
        ("keeps", "others,", "language"),
        ("holds inside", "probes,", "activations"),
        ("comes back", "lessons,", "attacks"),
    ]
    parts = [
        box(15, 20, 270, 56, "targets", "before and after the removal"),
        box(315, 20, 270, 56, "never-known names", "treated in the same way", kind="box"),
        *(box(15 + 145 * i, 132, 135, 80, *words) for i, words in enumerate(checks)),
        text(300, 102, "each figure of the one beside that of the other", "note", size=15),
        *(arrow(f"M{82 + 145 * i} {108} V126") for i in range(4)),
        *(arrow(f"M{82 + 145 * i} {212} V236") for i in range(4)),
        text(300, 258, "limits that were fixed before", "note", size=15),
        *(arrow(f"M{x} 266 V288") for x in (112, 300, 488)),
        box(25, 294, 175, 56, "pass", "all within limits", kind="good"),
        box(212, 294, 175, 56, "inconclusive", "one undecided"),
        box(400, 294, 175, 56, "fail", "one beyond its limit", kind="bad"),
        text(590, 374, "schematic", "note", anchor="end", size=13),
    ]
    label = "Targets and never-known names go through the same four groups of checks; fixed limits make the verdict"
    return figure(label, 384, parts)


FIGURES: dict[str, Callable[[], str]] = {
    "walk": walk,
    "sae": sae,
    "labels": labels,
    "gate": gate,
    "redirection": redirection,
    "audit": audit,
}


def outdated_figures() -> dict[Path, str]:
    """Return the figures that are not as they are drawn here, with what they should be."""
    drawn = {IMAGES / f"{name}.svg": draw() for name, draw in FIGURES.items()}
    return {path: svg for path, svg in drawn.items() if not path.exists() or path.read_text(encoding="utf-8") != svg}


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; exit code 1 if a figure is not up to date.")
def main(check: bool) -> None:
    """Draw the figures of the documentation."""
    outdated = outdated_figures()
    for path, svg in outdated.items():
        click.echo(f"{'outdated' if check else 'written'}: {path.relative_to(IMAGES.parent.parent)}")
        if not check:
            path.write_text(svg, encoding="utf-8")
    if check and outdated:
        raise click.exceptions.Exit(1)


if __name__ == "__main__":
    main()
