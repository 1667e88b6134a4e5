"""Training of SAEs: jobs, state, one step, and the folder of a run."""
