"""How good an SAE is: one definition of each quantity, evaluation, splicing, bootstrap."""
