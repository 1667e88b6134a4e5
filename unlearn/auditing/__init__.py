"""The audit: request, roles, evaluations, attacks, policy, verdict, report."""

from pathlib import Path

POLICIES = Path(__file__).parent / "policies"  # shipped limits of the verdict
