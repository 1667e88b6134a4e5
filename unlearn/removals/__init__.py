"""Removals: run one and save the model, its record, the ledger, the demo."""
