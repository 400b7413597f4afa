"""The positives that an encoder is trained on: every (input, next item) pair."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np

from pdrec_fast.data import Interactions
from pdrec_fast.errors import DataError
from pdrec_fast.ragged import indptr_of, ranges


class TrainingTokens:
    """Every input of the training data with its next item, user by user, in chronological order.

    They come from users with at least two training records, in sequences of at most ``max_length``.
    Sequence i has the tokens ``indptr[i]:indptr[i + 1]``. Without windows there is one for each
    user, the latest records; with windows the records before it make sequences of their own, cut
    from the latest backwards, so that every record but a user's first is a next item once.

    Attributes:
        users: int64 [n_sequences], indices into the training data.
        lengths: int64 [n_sequences], tokens of each sequence.
        indptr: int64 [n_sequences + 1].
        histories: the training sequences up to the last next item of each sequence.
        latest: bool [n_sequences], whether that is the user's last training record.
        inputs: the sequences' inputs, as views on the training data. Their ``users`` are keys of
            dropout: the user's index for the latest sequence of a user, numbers from the number of
            users on for earlier ones, so that no two sequences share random words.
        n_keys: one more than the largest key.
        target_records: int64 [n_tokens], the training record of each token's next item.
        targets: int32 [n_tokens], its item.
        token_users: int64 [n_tokens], the user of each token, as an index into the training data.

    Args:
        left_out: bool [n_users], users that are not trained on; None for nobody.

    Raises:
        DataError: no user has two training records, or all who have are left out.
    """

    def __init__(
        self,
        train: Interactions,
        max_length: int,
        *,
        windows: bool = False,
        left_out: np.ndarray | None = None,
    ) -> None:
        histories = train.histories()
        histories = histories[np.flatnonzero(histories.lengths >= 2)]
        if left_out is not None and left_out[histories.users].any():
            if left_out[histories.users].all():
                raise DataError(
                    "every user with two training records has interacted with every item: there "
                    "is no negative to learn from; a loss that draws none for a user is "
                    "'corpus_softmax' (loss=, on the command line --set pdrec.loss=)"
                )
            histories = histories[~left_out[histories.users]]
        if not len(histories):
            raise DataError(
                "no user has two training records: there is no next item to learn; bring longer "
                "histories (leave-one-out keeps two records of a user for validation and test)"
            )
        counts = np.ones(len(histories), dtype=np.int64)
        if windows:
            counts = -(-(histories.lengths - 1) // max_length)
        later = np.repeat(np.cumsum(counts), counts) - 1 - np.arange(counts.sum())
        self.latest = later == 0
        histories = histories[np.repeat(np.arange(len(histories)), counts)]
        self.histories = replace(histories, stops=histories.stops - later * max_length)
        self.users = self.histories.users
        self.lengths = np.minimum(self.histories.lengths - 1, max_length)
        self.indptr = indptr_of(self.lengths)
        stops = self.histories.stops - 1
        n_earlier = int((later > 0).sum())
        self.n_keys = train.n_users + n_earlier
        keys = self.users.copy()
        keys[later > 0] = train.n_users + np.arange(n_earlier)
        starts = stops - self.lengths
        self.inputs = replace(self.histories, users=keys, starts=starts, stops=stops)
        self.targets = train.items[self.target_records]

    # Of use to some modules and losses alone, and large where the data are.
    @property
    def target_records(self) -> np.ndarray:
        return ranges(self.inputs.starts + 1, self.lengths)

    @cached_property
    def token_users(self) -> np.ndarray:
        return np.repeat(self.users, self.lengths)

    @property
    def n_sequences(self) -> int:
        """Number of sequences; without windows that of users with a token."""
        return len(self.users)

    @property
    def n_tokens(self) -> int:
        """Number of (input, next item) pairs."""
        return len(self.targets)

    @property
    def starts(self) -> np.ndarray:
        """int64 [n_sequences], each sequence's first token."""
        return self.indptr[:-1]
