"""One setting, from its hyperparameters to its result."""
