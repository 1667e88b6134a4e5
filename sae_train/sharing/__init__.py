"""SAE folders on the Hugging Face hub: the card that goes with one, and the way there."""
