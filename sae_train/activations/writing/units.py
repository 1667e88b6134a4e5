"""Units of a store that several processes write: runs of whole chunks, fixed by the plan and not by who writes them.

Unit u belongs to process u modulo their number and is a part file of its own, so that a run may go on with another
number of processes: what is finished stays, what is not is dealt anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sae_train.activations import layout
from sae_train.run.processes import Processes
from sae_train.run.runs import partial_path

MOST_UNITS = 64  # as long as none is larger than
UNIT_CHUNKS = 4096  # of about 1 MiB
UNIT_BATCHES = 8  # at least; a batch that reaches over the edge of a unit is run on both sides of it


@dataclass(frozen=True)
class Share:
    """Rows that one process writes in one go, and where.

    Attributes:
        first, end: The first row, and the one behind the last.
        path: The store itself, or a part.
        is_whole: Whether it is the store.
    """

    first: int
    end: int
    path: Path
    is_whole: bool

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.end - self.first


@dataclass(frozen=True)
class Units:
    """The units of a store.

    Attributes:
        n_rows: Rows of the store.
        chunk: Rows of a chunk; a unit begins at a multiple of it.
        batch_rows: Rows that a batch may have.
        out: The store.
    """

    n_rows: int
    chunk: int
    batch_rows: int
    out: Path

    @property
    def unit_rows(self) -> int:
        """Rows of a unit that is not the last.

        Example:
            >>> Units(10**9, 910, 4096, Path("acts.h5")).unit_rows // 910, Units(100, 910, 4096, Path("a.h5")).n
            (4096, 1)
        """
        n_chunks = -(-self.n_rows // self.chunk)
        least = max(1, -(-UNIT_BATCHES * self.batch_rows // self.chunk))
        return self.chunk * max(least, min(UNIT_CHUNKS, -(-n_chunks // MOST_UNITS)))

    @property
    def n(self) -> int:
        """Number of units."""
        return -(-self.n_rows // self.unit_rows)

    def share(self, unit: int) -> Share:
        """Return the rows of a unit."""
        first = unit * self.unit_rows
        path = self.out.with_name(f"{self.out.name}{layout.PART}{unit:04d}{self.ending}")
        return Share(first, min(first + self.unit_rows, self.n_rows), path, is_whole=False)

    @property
    def ending(self) -> str:
        """Return how the names of its part files end."""
        return f"-of-{self.n:04d}"

    def all(self) -> list[Share]:
        """Return every unit, in order of rows."""
        return [self.share(unit) for unit in range(self.n)]

    def of(self, processes: Processes, *, resume: bool) -> list[Share]:
        """Return what a process writes.

        One that is alone writes the store itself, unless there are parts to go on with; what one process began to
        write so, the first one finishes.
        """
        if not (resume and layout.part_files(self.out)):
            begun = resume and partial_path(self.out).exists()
            if begun or processes.count == 1:
                return [Share(0, self.n_rows, self.out, is_whole=True)] if processes.is_first else []
        return self.all()[processes.rank :: processes.count]
