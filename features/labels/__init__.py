"""Known or unknown by the model's own answers, and which unknown entity is paired with a known one."""
