"""What `wb doctor` prints."""

from __future__ import annotations

from sae_train.machine.doctor import Examination


def machine_rows(found: Examination) -> list[tuple[str, str]]:
    """Return the rows of the table."""
    devices = ", ".join(f"{n} {gib:.0f} GiB" if gib else n for n, gib in found.devices.items()) or "none"
    return [
        ("processor", f"{found.processor}, {found.n_cores} cores"),
        ("instructions", ", ".join(found.instructions)),
        ("accelerators", devices),
        ("memory", f"{found.memory_gib:.1f} GiB, {found.free_gib:.1f} free"),
        ("disk", f"{found.disk_free_gib:.1f} GiB free, a cached file is read at {found.read_mib_per_s:,.0f} MiB/s"),
        ("one core, GFLOP/s", ", ".join(f"{name} {speed:.1f}" for name, speed in found.gflops.items())),
        ("versions", ", ".join(f"{name} {version}" for name, version in found.versions.items())),
    ]
