"""Errors that a user can act on. Each message names the place and says what to do."""

from __future__ import annotations


class PDRecError(Exception):
    """Above every error of this package's own; wrong arguments are plain ``ValueError``s.

    A message is one line that can be printed, whatever it quotes: what is no printable character,
    such as a line break in a file's field, shows as its escape.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    """Text in one line: what is no printable character shows as its escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def one_line(error: BaseException) -> str:
    """Another library's message, of however many lines, to be told within one of ours."""
    return " ".join(str(error).split())


class DataError(PDRecError, ValueError):
    """Interactions that cannot be used; names the file, row and column where they are known."""


class BackendError(PDRecError, RuntimeError):
    """A named implementation is not available here; names the ones that are."""


class CheckpointError(PDRecError, RuntimeError):
    """A saved model or run that is missing, damaged or of another configuration."""


class WriteError(PDRecError, OSError):
    """A file or directory that cannot be written; names it, why, and what to do. What was saved
    there before is kept."""


class NotFittedError(PDRecError, RuntimeError):
    """A model was asked for results before ``fit`` or ``load``."""


class MissingExtraError(PDRecError, ImportError):
    """An optional package is not installed; names the extra that brings it."""


class NonFiniteScoresError(PDRecError, ValueError):
    """A model's scores are NaN: it has diverged, or its inputs are not finite.

    Attributes:
        row: of the scores in which the first one is, where that is known.
    """

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row

    @classmethod
    def of_user(cls, scorer: object, user: object) -> NonFiniteScoresError:
        """The error of a scorer whose scores for a user (raw id) are NaN."""
        return cls(
            f"{type(scorer).__name__}: the scores for user {str(user)!r} are NaN and rank nothing; "
            "a model that gives such scores has diverged (train it anew with a lower learning "
            "rate), or reads numbers that are not finite"
        )


class NonFiniteLossError(PDRecError, FloatingPointError):
    """A NaN or infinite loss or weight; names the epoch, the step and the last good checkpoint, or
    the weights that are not saved."""


class ExportError(PDRecError, ValueError):
    """A model, or a part of it, that cannot be written for other programs; names the part."""


class RankLostError(PDRecError, RuntimeError):
    """Another process of a job over many ended, or cannot be reached."""
