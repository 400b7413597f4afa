"""Training steps recorded as a CUDA graph: batches padded to one shape, one launch for each.

A step of a small encoder is some hundreds of short kernels, which the host takes longer to launch
than the GPU to run. A graph launches them all at once, but works on fixed addresses and shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from pdrec_fast.data.sequences import PackedSequences
from pdrec_fast.training.batches import Batch, TrainingBatches

_ROUND = 256  # tokens; shapes that differ less share what Triton compiled


@dataclass(frozen=True)
class BatchShape:
    """The sizes that all batches of an epoch are padded to.

    Attributes:
        users: B, those with soft positives.
        tokens, sequences: of the packed sequences.
        inputs: T, tokens whose next item is known.
        max_length: longest sequence.
    """

    users: int
    tokens: int
    sequences: int
    inputs: int
    max_length: int

    @classmethod
    def for_epoch(cls, batches: TrainingBatches, order: np.ndarray, epoch: int) -> BatchShape:
        """The least shape that holds every batch of the sequences in ``order``."""
        tokens, max_length = batches.tokens, batches.max_length
        batch_size, dpa = batches.users_per_step, batches.dpa_at(epoch) is not None
        starts = np.arange(0, len(order), batch_size)
        lengths = tokens.lengths[order]
        inputs = np.add.reduceat(lengths, starts)
        total = inputs.copy()
        users = np.zeros(len(starts), dtype=np.int64)
        if dpa:
            latest = tokens.latest[order]
            total += np.add.reduceat(np.minimum(lengths + 1, max_length) * latest, starts)
            users = np.add.reduceat(latest.astype(np.int64), starts)
        capacity = _rounded(total.max())
        fillers = -(-(capacity - total.min()) // max_length)
        return cls(
            users=int(users.max()),
            tokens=capacity,
            sequences=int(min(batch_size, len(order)) + users.max() + fillers),
            inputs=_rounded(inputs.max()) if dpa else capacity,
            max_length=max_length,
        )


def pad_batch(batch: Batch, shape: BatchShape) -> Batch:
    """``batch``, on the host, in that shape; its loss and gradients stay what they are.

    Spare tokens make sequences of their own, which no other token sees. Their next items do not
    count, and spare users have no soft positives.
    """
    packed, key, soft = batch.sequences, batch.sequences.dropout_key, batch.soft_positives
    assert key is not None
    spare = shape.tokens - packed.n_tokens
    n_fillers = shape.sequences - len(packed)
    ends = np.minimum((1 + np.arange(n_fillers)) * shape.max_length, spare)
    filling = np.diff(ends, prepend=0)
    from_end = np.repeat(ends, filling) - np.arange(spare)
    sequences = PackedSequences(
        _extended(packed.items, shape.tokens, 0),
        torch.cat([packed.indptr, packed.n_tokens + torch.from_numpy(ends)]),
        torch.cat([packed.positions, torch.from_numpy(shape.max_length - from_end)]),
        np.concatenate([packed.host_lengths, filling]),
        np.concatenate([packed.sources, np.full(n_fillers, -1)]),
        replace(key, users=_extended(key.users, shape.sequences, 0)),
        None if packed.times is None else _extended(packed.times, shape.tokens, 0),
    )
    count = torch.tensor(len(batch.candidates))
    return Batch(
        sequences,
        None if batch.inputs is None else _extended(batch.inputs, shape.inputs, 0),
        _extended(batch.candidates, shape.inputs, 0),
        None if batch.weights is None else _extended(batch.weights, shape.inputs, 0),
        None if batch.last is None else _extended(batch.last, shape.users, 0),
        None if soft is None else _extended(soft, shape.users, -1),
        count,
        shared=batch.shared,
    )


class CapturedSteps:
    """Runs the steps of one epoch: the first as it is, the others as replays of one graph.

    A graph keeps the epoch's number and, where it is a number, the learning rate, so every epoch
    records its own. A rate in a tensor may change before every batch is taken.

    Args:
        step: takes a batch and returns its loss; must not read anything back to the host.
    """

    def __init__(self, step: Callable[[Batch], torch.Tensor], device: torch.device) -> None:
        self.step, self.device = step, device

    def run(self, batches: Iterator[Batch]) -> Iterator[torch.Tensor]:
        """The loss of every batch; all batches have one shape and are on the device."""
        first = next(batches)
        side = torch.cuda.Stream(self.device)
        # What is compiled or set up at a first use must not be recorded.
        yield self._aside(side, lambda: self.step(first))
        kept = next(batches, None)
        if kept is None:
            return
        graph = torch.cuda.CUDAGraph()
        loss = self._aside(side, lambda: self._record(graph, kept))
        graph.replay()
        yield loss.clone()
        for batch in batches:
            _copy_into(kept, batch)
            graph.replay()
            yield loss.clone()

    def _aside(self, stream: torch.cuda.Stream, work: Callable[[], torch.Tensor]) -> torch.Tensor:
        """``work`` on another stream: nothing on the default one can be recorded."""
        main = torch.cuda.current_stream(self.device)
        stream.wait_stream(main)
        with torch.cuda.stream(stream):
            result = work()
        main.wait_stream(stream)
        return result

    def _record(self, graph: torch.cuda.CUDAGraph, batch: Batch) -> torch.Tensor:
        torch.cuda.synchronize(self.device)
        # Another thread still prepares batches: its CUDA calls must not end the recording.
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            return self.step(batch)
        finally:
            graph.capture_end()


def _copy_into(kept: Batch, batch: Batch) -> None:
    for tensor, new in zip(_tensors(kept), _tensors(batch), strict=True):
        tensor.copy_(new)


def _tensors(batch: Batch) -> list[torch.Tensor]:
    """Every tensor of a batch, in a fixed order."""
    packed, key = batch.sequences, batch.sequences.dropout_key
    assert key is not None
    sequences = packed.items, packed.indptr, packed.positions, key.users
    ranked = batch.inputs, batch.candidates, batch.weights, batch.count
    others = packed.times, *ranked, batch.last, batch.soft_positives, *(batch.shared or ())
    return [*sequences, *(tensor for tensor in others if tensor is not None)]


def _extended(tensor: torch.Tensor, length: int, value: int) -> torch.Tensor:
    """``tensor`` [n, ...] with rows of ``value`` after it: [length, ...]."""
    out = tensor.new_full((length, *tensor.shape[1:]), value)
    out[: len(tensor)] = tensor
    return out


def _rounded(n_tokens: int) -> int:
    return -(-int(n_tokens) // _ROUND) * _ROUND
