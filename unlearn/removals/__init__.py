"""Removals: one run from files to a saved model, its record, the ledger, the demo."""
