"""Commands over the model of a finished run."""
