"""What this machine is, how fast it computes and reads, and what will be slow on it."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from sae_train.machine.arithmetic import SIDE, is_fast, product_seconds
from sae_train.run.runs import package_versions

READ_BYTES = 64 * 2**20
INSTRUCTIONS = {
    "avx2": "avx2",
    "avx512f": "avx512",
    "avx512_bf16": "avx512_bf16",
    "avx512_vnni": "avx512_vnni",
    "amx_bf16": "amx_bf16",
    "asimd": "neon",
    "bf16": "arm bf16",
}
"""Flag of /proc/cpuinfo -> what we call it: those that decide how fast a number format is."""
FORMATS = (torch.float32, torch.bfloat16, torch.float16)
CPU = torch.device("cpu")
ROOM_PER_PARAMETER = {"running": 4, "unlearning all weights": 20, "unlearning by an adapter": 9}
"""Bytes for each parameter: float32; two models, gradient and AdamW's moments; two models and little more."""


@dataclass(frozen=True)
class Examination:
    """What was found.

    Attributes:
        versions: Of Python and of the packages that can change a number.
        processor: Its name.
        n_cores: Cores that this process may use.
        instructions: Instruction sets that decide about number formats.
        devices: Accelerators by torch's name, with their memory in GiB.
        memory_gib, free_gib: Memory of the machine, and what is free of it.
        disk_free_gib: Free on the disk of the folder that was looked at.
        gflops: Speed of a product of two matrices on one core by number format, 10^9 operations a second.
        read_mib_per_s: Speed of reading a file there that was just written.
        slow: What will be slow or does not fit, and why; one sentence each.
    """

    versions: dict[str, str]
    processor: str
    n_cores: int
    instructions: tuple[str, ...]
    devices: dict[str, float]
    memory_gib: float
    free_gib: float
    disk_free_gib: float
    gflops: dict[str, float]
    read_mib_per_s: float
    slow: tuple[str, ...]


def examine(folder: Path) -> Examination:
    """Look at the machine, and at the disk of a folder; takes a second or two.

    Raises:
        OSError: Nothing can be written in the folder.
    """
    memory = psutil.virtual_memory()
    gflops = {str(f).removeprefix("torch."): 2 * SIDE**3 / product_seconds(f) / 1e9 for f in FORMATS}
    devices = accelerators()
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Examination(
        versions=package_versions(),
        processor=_processor(),
        n_cores=n_cores,
        instructions=_instructions(),
        devices=devices,
        memory_gib=memory.total / 2**30,
        free_gib=memory.available / 2**30,
        disk_free_gib=shutil.disk_usage(folder).free / 2**30,
        gflops=gflops,
        read_mib_per_s=_read_speed(folder),
        slow=tuple(slow_here(gflops, devices, memory.available / 2**30)),
    )


def accelerators() -> dict[str, float]:
    """Return the accelerators that torch sees, with their memory in GiB (0 where it does not say)."""
    found = {
        f"cuda:{i} ({torch.cuda.get_device_name(i)})": torch.cuda.get_device_properties(i).total_memory / 2**30
        for i in range(torch.cuda.device_count())
    }
    return found | ({"mps": 0.0} if torch.backends.mps.is_available() else {})


def slow_here(gflops: dict[str, float], devices: dict[str, float], free_gib: float) -> list[str]:
    """Return what will be slow on a machine of these figures, or not fit, each with its reason.

    A language model of N parameters takes 2 N operations for each token that it reads.
    """
    lines = []
    for dtype in FORMATS[1:]:
        name = str(dtype).removeprefix("torch.")
        if not is_fast(dtype, CPU):
            lines.append(
                f"{name} on the processor: {gflops[name]:.1f} GFLOP/s where float32 gives {gflops['float32']:.0f}. "
                "It is not used; what asks for it is computed in float32."
            )
    if not devices:
        speed = gflops["float32"] * 1e9
        tokens = {size: speed / (2 * size * 1e6) for size in (135, 1000)}
        lines.append(
            "Language models: there is no accelerator. At best a model of 135 million parameters reads, by one core, "
            f"{tokens[135]:,.0f} tokens a second, one of a billion {tokens[1000]:,.0f}; training takes three times as "
            "long."
        )
    room = max([free_gib, *devices.values()]) * 2**30
    sizes = ", ".join(f"{work} {room / per / 1e9:.1f}" for work, per in ROOM_PER_PARAMETER.items())
    lines.append(f"Large models: what is free holds, in billions of parameters (float32): {sizes}.")
    return lines


def _processor() -> str:
    """Return the processor's name."""
    lines = _first_core()
    return lines.get("model name") or platform.processor() or platform.machine()


def _instructions() -> tuple[str, ...]:
    """Return the instruction sets that matter; where the system does not tell, what torch found."""
    lines = _first_core()
    flags = set((lines.get("flags") or lines.get("Features") or "").split())
    return tuple(name for flag, name in INSTRUCTIONS.items() if flag in flags) or (
        torch.backends.cpu.get_cpu_capability().lower(),
    )


def cpuinfo() -> str:
    """Return what Linux says of its cores; nothing elsewhere."""
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _first_core() -> dict[str, str]:
    """Return what `cpuinfo` says of the first core."""
    lines = cpuinfo().split("\n\n")[0].split("\n")
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _read_speed(folder: Path) -> float:
    """Return the MiB a second at which a file that was just written is read: the memory's speed, unless it is full."""
    with tempfile.TemporaryFile(dir=folder) as stream:
        stream.write(bytes(READ_BYTES))
        stream.flush()
        stream.seek(0)
        started = time.perf_counter()
        while stream.read(2**20):
            pass
        return READ_BYTES / 2**20 / (time.perf_counter() - started)
