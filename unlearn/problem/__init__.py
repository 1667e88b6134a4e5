"""What every method is given: sets, partners, prompts and answers to train on."""
