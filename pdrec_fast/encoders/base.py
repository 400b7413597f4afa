"""What PDRec asks of a sequence encoder."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn

from pdrec_fast.data.sequences import PackedSequences
from pdrec_fast.ops.packed._sequences import DropoutKey


class SequenceEncoder(Protocol):
    """Any ``torch.nn.Module`` with these three members can be trained by ``PDRec``.

    An encoder that reads more of a batch than the values of its tensors, such as ``host_lengths``,
    sets ``recordable = False``: its steps cannot be replayed as a CUDA graph. One that reads the
    times of its items sets ``reads_times = True`` and finds them in ``batch.times``. For a loss of
    its own see ``ContrastiveEncoder``; for one whose states are not causal, or are trained with the
    target in sight, see ``PrefixEncoder``.

    A method ``last_states(batch)``, if there is one, gives ``encoder(batch)[batch.last]`` to
    rounding, [B, width], on eval and without gradient; users are scored by it. It is not asked
    where a subclass has another ``forward``.

    Attributes:
        item_embedding: ``nn.Embedding`` with one row per item, [N, width]; candidates are scored
            against it.
        max_length: longest sequence the encoder reads; longer ones keep their latest items.
    """

    item_embedding: nn.Embedding
    max_length: int

    def __call__(self, batch: PackedSequences) -> torch.Tensor:
        """The state after every token, [T, width]; a state may depend on no later token."""
        ...


@runtime_checkable
class PrefixEncoder(Protocol):
    """A ``SequenceEncoder`` with these methods reads every prefix of a sequence by itself, or
    learns from a target that it sees in part (masked, or in noise). A state for each of T prefixes
    would cost too much in every epoch, so it says which ones it learns from.

    ``encoder(batch)`` is what ``prefix_states`` gives for all tokens. Such steps are not recorded
    as CUDA graphs.
    """

    def chosen(self, sequences: PackedSequences) -> np.ndarray:
        """bool [T], the tokens whose next items are learned from in this epoch, on the host.

        The choice should follow from ``sequences.dropout_key`` (seed, epoch and users), so that it
        depends neither on the rest of the batch nor on the order of calls.
        """
        ...

    def training_states(
        self, batch: PackedSequences, tokens: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """The states that are ranked against what comes after the chosen tokens.

        Args:
            batch: no sequence of it is empty.
            tokens, targets: int64 [P], indices among the batch's tokens, and their next items.

        Returns:
            [P, width].
        """
        ...

    def prefix_states(self, batch: PackedSequences, tokens: torch.Tensor) -> torch.Tensor:
        """The states after some tokens as they are scored, with gradient: [P, width]."""
        ...


@runtime_checkable
class ContrastiveEncoder(Protocol):
    """A ``SequenceEncoder`` with these methods has a loss of its own, on random views of the
    training sequences; it is added to the objective. Such steps are not recorded as CUDA graphs.

    Over many processes such a loss needs the views of all. An encoder that is to be trained so has
    ``auxiliary_loss(views) = contrast(view_states(views))`` as well: ``view_states`` gives
    [2 B, d], the first views of B sequences, then their second ones, and ``contrast`` a mean over
    any number of them.
    """

    def augment(self, sequences: PackedSequences) -> PackedSequences:
        """The views of a batch of inputs, on the host, while the batch is put together.

        Their random numbers should follow from ``sequences.dropout_key`` (seed, epoch and users),
        so that they depend neither on the rest of the batch nor on the order of calls.
        """
        ...

    def auxiliary_loss(self, views: PackedSequences) -> torch.Tensor:
        """The loss on the views, on the encoder's device: float32 []."""
        ...


def last_states(encoder: Any, batch: PackedSequences) -> torch.Tensor:
    """The state after each sequence's last token, [B, width], for scoring: no gradient."""
    for kind in type(encoder).__mro__:
        if "last_states" in vars(kind):
            states: torch.Tensor = encoder.last_states(batch)
            return states
        if "forward" in vars(kind):
            break
    states = encoder(batch)
    return states[batch.last]


def dropout_key(batch: PackedSequences) -> DropoutKey:
    """The batch's key; without one, a new seed from torch's generator."""
    if batch.dropout_key is not None:
        return batch.dropout_key
    seed = int(torch.randint(2**63 - 1, ()))
    return DropoutKey(seed, 0, torch.arange(len(batch), device=batch.items.device))


def xavier_init(module: nn.Module) -> None:
    """Xavier-normal weights for every parameter of two or more dimensions (as in SASRec)."""
    for parameter in module.parameters():
        if parameter.ndim >= 2:
            nn.init.xavier_normal_(parameter)


@torch.no_grad()
def positions_like_items(encoder: Any) -> None:
    """Scale the position embedding to the spread of the items that it is added to, as in BERT,
    which draws both alike. Xavier's of few positions is many times larger than that of many items,
    so that little of their sum, once normalised, would be the items'."""
    positions, items = encoder.position_embedding.weight, encoder.item_embedding.weight
    positions *= items.shape[1] ** 0.5 * items.std() / positions.std()
