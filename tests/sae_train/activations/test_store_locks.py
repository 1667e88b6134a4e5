"""A store under HDF5's locks, without any, and one whose tokenizer was recorded by an older version."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import h5py
import pytest

from features.inspection.inspection import inspect_file
from sae_train.activations.store import ActivationStore
from sae_train.activations.writing import writer
from sae_train.config import CacheConfig
from sae_train.errors import BusyError, ConfigError
from sae_train.lm.models import load_lm
from sae_train.run.progress import no_advance
from sae_train.run.runs import partial_path
from sae_train.storage import h5
from sae_train.text.tokenizer_hash import tokenizer_hash
from sae_train.text.tokens import Document
from sae_train.text.windows import plan_windows


@pytest.fixture(scope="module")
def lm(tiny_llama_dir):
    return load_lm(str(tiny_llama_dir), device="cpu")


def write(lm, out: Path, *, resume=False, advance=no_advance) -> None:
    plan = plan_windows([Document(f"The city lies on river {n}.") for n in range(40)], lm.tokenizer, ctx_len=16)
    config = CacheConfig(("layers.1",), ctx_len=16, batch_size=4, dtype="float32")
    writer.write_store(lm, plan, config, out, provenance={"model": "m", "text": "t"}, resume=resume, advance=advance)


@pytest.mark.skipif(sys.platform == "win32", reason="locks of another kind")
def test_a_store_that_another_process_writes_is_busy_not_damaged(lm, tmp_path):
    import fcntl

    write(lm, tmp_path / "a.h5")
    with (tmp_path / "a.h5").open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="another process has"):
            ActivationStore(tmp_path / "a.h5")
    ActivationStore(tmp_path / "a.h5").close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_store_is_written_and_read_where_hdf5_finds_no_locks(lm, tmp_path, monkeypatch, number):
    real = h5py.File

    def without_locks(path, mode, **options):
        if options.get("locking") is not False:
            raise OSError(number, f"Unable to open file (unable to lock file, errno = {number})")
        return real(path, mode, **options)

    monkeypatch.setattr(h5.h5py, "File", without_locks)
    write(lm, tmp_path / "a.h5")
    with ActivationStore(tmp_path / "a.h5") as store:
        assert len(store["layers.1"][:3]) == 3


class _Stop(BaseException): ...


def _stop(rows: int, *, earlier: int = 0) -> None:
    if rows:
        raise _Stop


def test_a_store_with_the_older_hash_is_continued_and_described(lm, tmp_path):
    out = tmp_path / "a.h5"
    with pytest.raises(_Stop):
        write(lm, out, advance=_stop)
    older = tokenizer_hash(lm.tokenizer, like="")
    with h5py.File(partial_path(out), "r+") as file:
        h5.set_attrs(file, {"tokenizer_hash": older})
    write(lm, out, resume=True)
    with ActivationStore(out) as store:
        assert store.attrs["tokenizer_hash"] == older
    assert inspect_file(out, tokenizer=lm.tokenizer).statistics
    with h5py.File(out, "r+") as file:
        h5.set_attrs(file, {"tokenizer_hash": "0" * 64})
        h5.seal(file)
    with pytest.raises(ConfigError, match="another tokenizer"):
        inspect_file(out, tokenizer=lm.tokenizer)
