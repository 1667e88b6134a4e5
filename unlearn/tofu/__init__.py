"""The figures of the TOFU benchmark on any model, as open-unlearning computes them."""
