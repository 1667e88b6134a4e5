"""`wb import-entities`: entities, templates and a forget list from another benchmark's files."""

from __future__ import annotations

from pathlib import Path

import click

from cli import options
from cli.entity_source import FORMATS


@click.command(
    epilog=options.example(
        "printf 'name,type,country\\nVelmora,city,Ardane\\nTashu,city,Ost\\n' > cities.csv",
        "wb import-entities cities.csv --out cities",
        "wb label-entities --model fact-world --entities cities/entities.jsonl --templates cities/templates.json \\",
        "  --out cities_labels.jsonl",
    )
)
@click.argument("source")
@click.option("--format", default="auto", show_default=True, help=f"auto: by the first row; {', '.join(FORMATS)}.")
@click.option("--type", "kind", help="Type of the entities whose rows name none; by default one that fits the format.")
@options.out_option(
    "The folder: entities.jsonl, templates.json, import.json, and forget.txt where there is such a list."
)
@options.overwrite_option
@options.common_options
def command(
    source: str,
    format: str,
    kind: str | None,
    out: Path,
    overwrite: bool,
    as_json: bool,
    config_path: Path | None,
) -> None:
    """Turn SOURCE, another benchmark's file or folder, into entities, templates and a forget list.

    SOURCE is JSON, JSON lines, CSV, TSV or parquet, plain or gzip; a folder or tar archive of them; or a hub dataset
    id. What stands in files with "forget" in their name goes to the forget list. Questions that fit one entity alone
    go to the templates under its type:name. A row that is no row of the format is an error that names it; rows about
    which nothing can be asked are left out, each listed with its reason in import.json.
    """
    from cli.output.render import emit
    from features import import_entities

    found = import_entities(source, format=format, type=kind)
    found.save(out, overwrite=overwrite)
    summary = found.summary()
    rows = [(key, value) for key, value in summary.items() if key != "skipped"]
    rows += [(f"left out: {reason}", count) for reason, count in summary["skipped"].items()]
    emit({"out": str(out), **summary}, as_json=as_json, title=f"Entities at {out}", rows=rows)
