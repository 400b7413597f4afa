"""Every random stream of the package, and every offset within its keys.

**Counters** (Philox4x32, ``reference.counter_rng``). A word belongs to (seed, epoch, user, stream):
64 bits and three times 32. No two uses share one, ``tests/test_random_keys.py`` proves it:

=============  =====================  ==================================================
stream         epoch                  user
=============  =====================  ==================================================
``NOISE``      of training            u: the diffusion's noise in training
``NOISE``      ``FORWARD_EPOCH``      u: noise that the reverse process starts from
``NOISE``      ``SAMPLING_EPOCH + t`` u: noise of its step t
``NOISE``      below 2**31            ``MODEL_NOISE_USERS + u``: L-DiffRec's, two draws an epoch
``NOISE``      from 2**31 on          ``MODEL_NOISE_USERS + u``: CODIGEM's, T draws an epoch
``DROPOUT``    of training            u: dropout of the diffusion's input
``NEGATIVES``  0                      u: draws from the pools of negatives (NNS)
``VIEWS``      of training            u: how views of a sequence are made
``ENCODER`` +  of training            u: an encoder's dropout of inputs, and what else it
                                      draws for them; ``COMPLETE_USERS + u`` of
                                      complete sequences (DPA), ``VIEW_USERS + u`` of views
=============  =====================  ==================================================

With windows (``TrainingTokens``) a user's earlier sequences have keys of their own, after those of
all users; they count as users wherever users are counted here.

Training counts fewer than 2**31 epochs, the reverse process fewer than 2**31 - 1 steps. Within an
encoder's stream, inputs and complete sequences leave room for 2**31 users. Four kinds of 2**31
users do not fit into 32 bits: with views there is room for 2**30, and ``check_users`` refuses
more, since view 1 of user u would get the dropout of the input of user 2**30 + u.

**Generators on the host** are NumPy's, made by the functions below, and ``torch.Generator``s, none
of them global (but for encoders of a user's own, see ``isolation``). The latter are seeded with a
model's seed for its weights and by ``epoch_seed`` in every epoch; at seed 0 these are the same in
epoch 0, so that weights and order come from the same numbers, by different operations. It stays so
that a seed keeps giving the same model. ``data.synthetic`` has a generator of its own.
"""

from __future__ import annotations

import numpy as np

from pdrec_fast.errors import DataError

NOISE, DROPOUT, NEGATIVES, VIEWS, ENCODER = 0, 1, 2, 3, 16
"""The streams, the same in ``csrc/random_keys.hpp``; an encoder numbers its dropouts and other
draws from ``ENCODER`` on."""

FORWARD_EPOCH = 1 << 31
SAMPLING_EPOCH = FORWARD_EPOCH + 1

MODEL_NOISE_USERS = 1 << 31
_CODIGEM_EPOCH = 1 << 31

COMPLETE_USERS = 1 << 31
VIEW_USERS = (1 << 30, 3 << 30)
MAX_USERS = 1 << 31
MAX_USERS_WITH_VIEWS = 1 << 30


def check_users(n_users: int, *, views: bool) -> None:
    """Raises DataError where an encoder's dropouts have no keys for so many users.

    Args:
        views: whether the encoder has a loss on views of the sequences, as CL4SRec does.
    """
    most = MAX_USERS_WITH_VIEWS if views else MAX_USERS
    if n_users > most:
        kind = "an encoder that learns from views" if views else "an encoder"
        raise DataError(
            f"{kind} can be trained on at most {most} users, got {n_users}: random keys have 32 "
            "bits for a user; split the users or choose another encoder"
        )


def latent_noise_epoch(epoch: int, draw: int) -> int:
    """The epoch in the keys of L-DiffRec's noise: draw 0 is the encoder's, draw 1 the diffusion's;
    for fewer than 2**30 epochs."""
    return 2 * epoch + draw


def codigem_noise_epoch(epoch: int, step: int, steps: int) -> int:
    """The epoch in the keys of CODIGEM's noise of one of its ``steps``; for fewer than 2**31
    steps in all epochs."""
    return _CODIGEM_EPOCH + epoch * steps + step


def random_negatives(seed: int, epoch: int) -> np.random.Generator:
    """Of the random negatives of one epoch."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch]))


def shared_negatives(seed: int, epoch: int, step: int) -> np.random.Generator:
    """Of the negatives that the batch of one step shares.

    The steps of an epoch start 2**128 blocks from each other along a counter of which
    ``random_negatives`` and ``safe_negative_offsets`` have other parts.
    """
    return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, step, 2]))


def safe_negative_offsets(seed: int) -> np.random.Generator:
    """Of the places where users begin in their tables of safe negatives (NNS).

    It starts 2**192 blocks along the counter whose beginning gives ``random_negatives(seed, 0)``.
    """
    return np.random.Generator(np.random.Philox(key=[seed, 0], counter=[0, 0, 0, 1]))


def evaluation_negatives(seed: int, split_name: str) -> np.random.PCG64:
    """Of the sampled negatives of a split's cases."""
    return np.random.PCG64(np.random.SeedSequence(seed, spawn_key=tuple(split_name.encode())))


def validation_sample(seed: int) -> np.random.PCG64:
    """Of the cases that early stopping looks at, where it does not look at all."""
    return np.random.PCG64(np.random.SeedSequence(seed, spawn_key=tuple(b"validation sample")))


def user_sample() -> np.random.Generator:
    """Of the users that ``limit_users`` keeps; of no seed: the same data give the same users."""
    key = tuple(b"sample of users")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(0, spawn_key=key)))


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed of torch's generators in one epoch, below 2^32: the CPU generator ignores higher bits.

    The factor is odd, so that different seeds give different numbers in every epoch.
    """
    return (epoch + seed * 0x9E3779B1) % 2**32


def proposal_seed(seed: int, trial: int) -> int:
    """Seed of the sampler that proposes one trial's settings."""
    return (seed * 1_000_003 + trial) % 2**32
