"""Errors that a user can act on. Each message names the place and says what to do."""


class DataError(ValueError):
    """Interactions that cannot be used; names the file, row and column where they are known."""


class BackendError(RuntimeError):
    """A named implementation is not available here; names the ones that are."""


class CheckpointError(RuntimeError):
    """A saved model or run that is missing, damaged or of another configuration."""


class NonFiniteScoresError(ValueError):
    """A model's scores are NaN: it has diverged, or its inputs are not finite."""


class NonFiniteLossError(FloatingPointError):
    """A NaN or infinite loss or weight; names the epoch, the step and the last good checkpoint."""
