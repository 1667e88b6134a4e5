"""Label entities as known or unknown by the model's own answers, and pair known with unknown entities."""
