"""SAE quality: one definition of each quantity, evaluation, splicing, bootstrap."""
