"""Output of a station: a claimed path, or a temporary folder that is deleted with the result."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path

from sae_train.errors import ConfigError
from sae_train.run.runs import claim_output


class Output:
    """The claim of a station on a path.

    Whoever holds this object holds the files: where nobody named a path, they lie in a temporary folder that is removed
    with the last reference, or when Python ends.

    Args:
        out: Where the result goes; None takes a temporary folder.
        name: File or folder in the temporary folder.
        overwrite: What is there may be replaced.
        resume: What is there is to be continued.
        is_shared: Several processes write it, so that all of them have to know where.

    Attributes:
        path: Where to write.
        is_temporary: Whether no path was given.

    Raises:
        OutputExistsError, MissingFileError: As `claim_output`.
        ConfigError: Something is to be continued, or written by several, and nobody says where.
    """

    def __init__(
        self,
        out: str | Path | None,
        *,
        name: str,
        overwrite: bool = False,
        resume: bool = False,
        is_shared: bool = False,
    ) -> None:
        self.is_temporary = out is None
        if out is not None:
            self.path = Path(out)
            claim_output(self.path, overwrite=overwrite, resume=resume)
            return
        if resume or is_shared:
            got = "resume without out" if resume else "several processes without out"
            raise ConfigError("nobody says where the result lies", got=got, expected="out, a path")
        folder = Path(tempfile.mkdtemp(prefix="sae-workbench-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.path = folder / name

    def __deepcopy__(self, memo: object) -> Output:
        """Copies of a result share its files."""
        return self
