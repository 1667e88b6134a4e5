"""Ground floor: language model -> activations on disk -> sparse autoencoder. Imports none of the other floors."""
