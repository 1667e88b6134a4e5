"""The audit: request, roles, evaluations, attacks, policy, verdict, report."""
