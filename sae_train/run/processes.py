"""Distributed processes as `torchrun` starts them: rank, world size, sums over processes, barriers.

Tensors on the host travel by gloo, those on a CUDA device by NCCL. A process on its own does nothing at any of these
calls, so that loops need no second version.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from sae_train.errors import ConfigError, RunError

PATIENCE = timedelta(hours=12)  # while one process evaluates or reads, the others wait at the next sum


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
            self.sum_(torch.zeros(1))

    def sum_(self, *values: Tensor) -> None:
        """Replace each tensor by its sum over all processes; all of them are on their way at once."""
        self._reduce("SUM", values)

    def min_(self, *values: Tensor) -> None:
        """Replace each tensor by its smallest value over all processes, number by number."""
        self._reduce("MIN", values)

    def copy_from_first(self, *values: Tensor) -> None:
        """Replace each tensor by that of the first process."""
        for value in values if self.count > 1 else ():
            whole = value.contiguous()
            with _all_there():
                dist.broadcast(whole, src=0)
            value.copy_(whole)

    def gather(self, value: Tensor) -> Tensor:
        """Return the tensors of all processes, which are of one shape, along a new first axis."""
        if self.count == 1:
            return value.unsqueeze(0)
        # A sum of which every process fills one part: exact, since the others' part of it is zero.
        found = torch.zeros(self.count, *value.shape, dtype=value.dtype, device=value.device)
        found[self.rank] = value
        self.sum_(found)
        return found

    def part(self, n: int) -> slice:
        """Return this process's share of n things in a row; n is a multiple of the count, or the last ones get fewer.

        Example:
            >>> Processes(1, 4).part(8), Processes(2, 3).part(4)
            (slice(2, 4, None), slice(3, 4, None))
        """
        fewer, longer = divmod(n, self.count)
        start = self.rank * fewer + min(self.rank, longer)
        return slice(start, start + fewer + (self.rank < longer))

    def device(self, wanted: str) -> str:
        """Return the device of this process: its own accelerator where `auto` would give all the same one."""
        if self.count > 1 and wanted == "auto" and torch.cuda.is_available():
            return f"cuda:{int(os.environ.get('LOCAL_RANK', self.rank)) % torch.cuda.device_count()}"
        return wanted

    def own_device(self, wanted: str) -> str:
        """Return the device of this process where each must have one of its own, as for sums by NCCL.

        Raises:
            ConfigError: They would have to share an accelerator, or it is of a kind that no sum runs over.
        """
        if self.count == 1 or wanted == "cpu":
            return wanted
        n_here = int(os.environ.get("LOCAL_WORLD_SIZE", self.count))
        n_devices = torch.cuda.device_count()
        if wanted == "auto" and n_devices == 0:
            return "cpu"
        if wanted not in ("auto", "cuda") or n_here > n_devices:
            raise ConfigError(
                "several processes need a device each",
                got=f"{wanted} (`device`), {n_here} processes and {n_devices} CUDA devices on this machine",
                expected="`device`=auto or cuda with no more processes than devices, or `device`=cpu",
                try_=f"torchrun --nproc-per-node {max(1, n_devices)}",
            )
        return self.device("auto")

    def _reduce(self, how: str, values: tuple[Tensor, ...]) -> None:
        """Reduce each tensor in place."""
        if self.count == 1:
            return
        whole = [value.contiguous() for value in values]
        with _all_there():
            pending = [dist.all_reduce(value, getattr(dist.ReduceOp, how), async_op=True) for value in whole]
            for work in pending:
                if work is not None:
                    work.wait()
        for found, value in zip(whole, values, strict=True):
            if found is not value:
                value.copy_(found)


ALONE = Processes()
_JOINED: list[bool] = []  # something, once this process has been one of several


@contextmanager
def _all_there() -> Iterator[None]:
    """Say in words that another process is gone: the connection to it breaks while something is summed.

    Raises:
        RunError: It is; what the others had saved can be continued.
    """
    try:
        yield
    except RuntimeError as error:
        raise RunError(
            "another process of this run has ended",
            got=str(error).strip().splitlines()[-1][-160:] if str(error).strip() else type(error).__name__,
            expected="all processes up to the end",
            try_="the same command with `resume`, where it can be continued; the other process says why it ended",
        ) from error


def was_one_of_several() -> bool:
    """Tell whether this process has joined others."""
    return bool(_JOINED)


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Join the processes that `torchrun` started; a single process joins no group."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count <= 1:
        yield Processes()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    processes = Processes(dist.get_rank(), count)
    _JOINED.append(True)
    try:
        yield processes
        processes.wait()  # one that left while another still sends would break the connection under it
    finally:
        dist.destroy_process_group()
