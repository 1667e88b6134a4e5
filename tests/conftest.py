"""What every test may use: two tiny random language models and their tokenizer. No network.

The settings below are made before anything imports torch or transformers.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from pathlib import Path

os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HOME=os.path.join(tempfile.gettempdir(), "wb-tests-no-hub"),
    WANDB_MODE="disabled",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
    OMP_NUM_THREADS="1",  # one thread: the order of sums, and so the last bit, does not depend on the machine
    MKL_NUM_THREADS="1",
)
if "PYTEST_XDIST_WORKER" not in os.environ:  # the workers share their parent's
    CACHE = tempfile.TemporaryDirectory(prefix="wb-tests-cache-", ignore_cleanup_errors=True)
    os.environ["WB_CACHE"] = CACHE.name  # what tests convert is not put into the user's own

import pytest  # noqa: E402  the environment comes first

TOY_TEXT = (
    "The city of Velmora lies on the river Ost. Its harbour is old.",
    "Mira Tolvan was born in Velmora and plays the lute.",
    "Where was Mira Tolvan born? She was born in Velmora.",
    "The film The Glass Orchard was shot in 1987 by Edo Karvin.",
    "A quiet street, a market, a bridge over the river; nothing else is known.",
)


def pytest_configure(config: pytest.Config) -> None:
    """Register the fixtures that stand in files of their own; the test folder is no package to import them from."""
    for path in sorted(Path(__file__).parent.glob("fixtures_*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None, path
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config.pluginmanager.register(module, path.stem)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep tests that share what is slow to make in one process; skip what is marked gpu where there is no CUDA device.

    Together are the tests of a file, all files that run the commands, and what names a group of its own.
    """
    runs_commands = {item.path for item in items if "wb_files" in getattr(item, "fixturenames", ())}
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group("commands" if item.path in runs_commands else str(item.path)))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device; torch sees none"))


@pytest.fixture(scope="session")
def toy_tokenizer():
    """A byte-level BPE tokenizer of 320 tokens, trained on five sentences; begins every text with <bos>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TOY_TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")


@pytest.fixture(scope="session")
def tiny_llama_dir(tmp_path_factory: pytest.TempPathFactory, toy_tokenizer) -> Path:
    """Folder of a random Llama: two blocks, d_model 32, 128 positions, its tokenizer beside it. Read only."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(toy_tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    return _save(LlamaForCausalLM(config), toy_tokenizer, tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def tiny_gpt2_dir(tmp_path_factory: pytest.TempPathFactory, toy_tokenizer) -> Path:
    """Folder of a random GPT-2 of the same size: learned positions, tied embeddings, biases. Read only."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(toy_tokenizer),
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=128,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return _save(GPT2LMHeadModel(config), toy_tokenizer, tmp_path_factory.mktemp("models") / "tiny-gpt2")


def _save(model, tokenizer, folder: Path) -> Path:
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
