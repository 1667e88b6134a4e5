"""Second floor: make the model not know, and measure how deep the forgetting goes. May import features, sae_train."""
