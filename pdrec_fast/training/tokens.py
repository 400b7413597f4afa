"""The positives that an encoder is trained on: every (input, next item) pair."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pdrec_fast.data import Interactions
from pdrec_fast.errors import DataError
from pdrec_fast.ragged import indptr_of, ranges


class TrainingTokens:
    """Every input of the training data with its next item, user by user, in chronological order.

    The users are those with at least two training records. User i of them has the tokens
    ``indptr[i]:indptr[i + 1]``, at most ``max_length`` and the latest.

    Attributes:
        users: int64 [n_users], indices into the training data.
        lengths: int64 [n_users], tokens of each user.
        indptr: int64 [n_users + 1].
        histories: the users' whole training sequences.
        inputs: the users' inputs, as views on the training data.
        target_records: int64 [n_tokens], the training record of each token's next item.
        targets: int64 [n_tokens], its item.
        token_users: int64 [n_tokens], the user of each token, as an index into the training data.

    Raises:
        DataError: no user has two training records.
    """

    def __init__(self, train: Interactions, max_length: int) -> None:
        histories = train.histories()
        self.histories = histories[np.flatnonzero(histories.lengths >= 2)]
        if not len(self.histories):
            raise DataError(
                "no user has two training records: there is no next item to learn; bring longer "
                "histories (leave-one-out keeps two records of a user for validation and test)"
            )
        self.users = self.histories.users
        self.lengths = np.minimum(self.histories.lengths - 1, max_length)
        self.indptr = indptr_of(self.lengths)
        stops = self.histories.stops - 1
        self.inputs = replace(self.histories, starts=stops - self.lengths, stops=stops)
        self.target_records = ranges(self.inputs.starts + 1, self.lengths)
        self.targets = train.items[self.target_records].astype(np.int64)
        self.token_users = np.repeat(self.users, self.lengths)

    @property
    def n_users(self) -> int:
        """Number of users with a token."""
        return len(self.users)

    @property
    def n_tokens(self) -> int:
        """Number of (input, next item) pairs."""
        return len(self.targets)

    @property
    def starts(self) -> np.ndarray:
        """int64 [n_users], each user's first token."""
        return self.indptr[:-1]
