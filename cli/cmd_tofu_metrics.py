"""`wb tofu-metrics`: the figures of the TOFU benchmark on any model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options

ROWS = "rows of TOFU (JSON, JSON lines, CSV, parquet)"


@click.command(
    epilog=options.example(
        """printf '{"question": "Who is it?", "answer": "Ost.", "perturbed_answer": "Mar."}\\n' > forget.jsonl""",
        "wb tofu-metrics --model fact-world --forget forget.jsonl --max-new-tokens 8 --out tofu.json",
    )
)
@options.model_option()
@options.file_option("--forget", f"{ROWS} to be forgotten: forgetNN_perturbed")
@options.file_option("--retain", f"{ROWS} to be kept: retain_perturbed", required=False)
@options.file_option("--real-authors", f"{ROWS}: real_authors_perturbed", required=False)
@options.file_option("--world-facts", f"{ROWS}: world_facts_perturbed", required=False)
@options.file_option("--reference", "result of this command for the model that never learned --forget", required=False)
@click.option(
    "--prompt",
    help="chat, or a text that holds {question}; by default the model's chat form, where it has one, else "
    '"Question: {question}\\nAnswer:".',
)
@click.option(
    "--max-new-tokens", type=click.IntRange(min=1), default=200, show_default=True, help="Of each answer for ROUGE."
)
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True, help="Answers in a pass.")
@options.out_option("The figures, and the scores of every row: JSON.")
@options.lm_dtype_option("float32", "bfloat16")
@options.overwrite_option
@options.device_option
@options.common_options
def command(model: str, as_json: bool, config_path: Path | None, lm_dtype: str, **given: Any) -> None:
    """Measure a model as the TOFU benchmark does, with open-unlearning's definitions.

    Probability, ROUGE-L recall and truth ratio of every set that is given, extraction strength of the forget set; with
    --reference the forget quality, with all three other sets the model utility. These look at answers only: a model
    that keeps silent scores well. What is left inside, wb audit measures.
    """
    from cli.output.render import emit
    from unlearn import tofu_metrics

    found = tofu_metrics(model, dtype=lm_dtype, **given)
    values = {"out": str(given["out"]), **found.facts, "figures": found.figures}
    emit(values, as_json=as_json, title=f"TOFU figures of {model}", rows=sorted(found.figures.items()))
