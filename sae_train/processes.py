"""Several processes on one task, as `torchrun` starts them: who am I, how many are we, wait for the others.

Only what the ground floor needs: a rank, a count and a barrier (gloo, so that it works without an accelerator).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Processes:
    """This process among those that share a task; alone by default.

    Attributes:
        rank: Number of this process, from 0.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for all: prints, joins, removes."""
        return self.rank == 0

    def wait(self) -> None:
        """Return once every process has come this far."""
        if self.count > 1:
            import torch.distributed as dist

            dist.barrier()

    def device(self, wanted: str) -> str:
        """Return the device of this process: its own accelerator where `auto` would give all the same one."""
        import torch

        if self.count > 1 and wanted == "auto" and torch.cuda.is_available():
            return f"cuda:{int(os.environ.get('LOCAL_RANK', self.rank)) % torch.cuda.device_count()}"
        return wanted


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Join the processes that `torchrun` started; a process on its own joins nobody."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count <= 1:
        yield Processes()
        return
    import torch.distributed as dist

    dist.init_process_group("gloo")
    try:
        yield Processes(dist.get_rank(), count)
    finally:
        dist.destroy_process_group()
