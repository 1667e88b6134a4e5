"""The audit: request, roles, evaluations, attacks, policy, verdict, report."""

from pathlib import Path

POLICIES = Path(__file__).parent / "policies"  # shipped limits of the verdict


def shipped_policy(path: Path) -> Path:
    """Return the file of a policy that is shipped, where a path is its name (`default-v3`), not a file; or the path."""
    own = POLICIES / f"{path}.toml"
    return own if path.name == str(path) and own.is_file() and not path.exists() else path
