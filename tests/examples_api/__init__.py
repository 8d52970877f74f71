"""Programs as users of Polos write them: one for each of its examples that needs a model and nothing else."""
