"""Losses of all states against the same items, whose logits exist a block at a time: the driver of
``shared_softmax`` and ``corpus_softmax``.

A block is ``states @ items.T``. A kernel puts exponentials e in its place and gives a factor f for
each state, such that the loss's derivatives by the products are ``f_t e_ti``. Since the loss is a
scalar its gradients are found in the same pass and only scaled in the backward::

    grad_states_t = f_t (e @ items)_t + grad_state_t state_t        grad_items = e.T @ (f states)

so that a step takes three products of matrices, as few as there are. Items too many for a block to
hold enough states are taken in several, the softmax's sums carried from one to the next; the
logits are then computed twice. In float32 on the CPU the extension makes the products too, all in
one call, unless items are that many.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from pdrec_fast.operands import Similarity
from pdrec_fast.ops.arguments import autocast_dtype

_NORM_EPS = 1e-12  # of torch.nn.functional.normalize


class Wanted(NamedTuple):
    """What to compute beside the loss.

    Attributes:
        half: whether products of matrices are in bfloat16.
        of_states, of_table: whether the gradients of these are needed.
    """

    half: bool
    of_states: bool
    of_table: bool

    @classmethod
    def of(cls, states: torch.Tensor, table: torch.Tensor) -> Wanted:
        half = _asks_for_bfloat16(states)
        grad = torch.is_grad_enabled()
        return cls(half, grad and states.requires_grad, grad and table.requires_grad)


def _asks_for_bfloat16(states: torch.Tensor) -> bool:
    return (autocast_dtype(states.device.type) or states.dtype) == torch.bfloat16


class ItemVectors:
    """The vectors of the items that states are held against, as the similarity takes them.

    Attributes:
        factors: [K, d], of the dtype of products.
    """

    def __init__(self, vectors: torch.Tensor, similarity: Similarity, half: bool) -> None:
        self._unit, self._norms = vectors.float().contiguous(), None
        if similarity.cosine:
            self._norms = torch.linalg.vector_norm(self._unit, dim=1, keepdim=True)
            self._unit = self._unit / self._norms.clamp_min(_NORM_EPS)
        self.factors = self._unit.bfloat16() if half else self._unit

    def gradient(self, gradient: torch.Tensor) -> None:
        """Turn the gradient by ``factors``, float32, into that by the vectors, in place."""
        if self._norms is None:
            return
        radial = (gradient * self._unit).sum(dim=1, keepdim=True)
        # A norm below eps counts as constant.
        radial.masked_fill_(self._norms < _NORM_EPS, 0)
        gradient.addcmul_(self._unit, radial, value=-1).div_(self._norms.clamp_min(_NORM_EPS))


class Kernel(ABC):
    """What lies between the products.

    Attributes:
        factors: [T], f of tokens whose last block is taken.
        splits: whether blocks may have a part of the items, and ``exponentials`` exists.
        multiplies: whether ``take_all`` exists.
    """

    factors: torch.Tensor
    splits = False
    multiplies = False

    @property
    @abstractmethod
    def loss(self) -> torch.Tensor:
        """The sum of the tokens' losses, [], once all blocks are taken."""

    @abstractmethod
    def take(self, block: torch.Tensor, tokens: slice, items: slice) -> None:
        """Take a block of products into the losses of its tokens. Where it has all items,
        exponentials take their place."""

    def exponentials(self, block: torch.Tensor, tokens: slice, items: slice) -> None:
        """Put exponentials in the place of the products of tokens whose losses are known."""
        raise NotImplementedError

    def take_all(self, products: Products) -> None:
        """Take all states and items, and give their gradients but for the items' norms."""
        raise NotImplementedError


Products = tuple[Any, Any, Any, Any]
"""States [T, d'] and items [K, d'], and where to put the gradients by these or None: float32
arrays for the extension, d' a multiple of its vectors."""


class Gradients(NamedTuple):
    """Of the loss, float32.

    Attributes:
        states: [T, d], but for the multiple of the states; [0, d] where not wanted.
        items: [K, d]; [0, d] where not wanted.
    """

    states: torch.Tensor
    items: torch.Tensor

    @classmethod
    def like(cls, states: torch.Tensor, n_items: int, wanted: Wanted) -> Gradients:
        """Zeros, on the device of the states."""
        width = states.shape[1]
        n_states = len(states) if wanted.of_states else 0
        zeros = states.new_zeros((n_states, width), dtype=torch.float32)
        return cls(zeros, zeros.new_zeros((n_items if wanted.of_table else 0, width)))


def run(
    kernel: Kernel,
    states: torch.Tensor,
    vectors: Callable[[slice], ItemVectors],
    n_items: int,
    wanted: Wanted,
) -> Gradients:
    """Everything in blocks: ``vectors`` gives those of a range of the items; states in float32."""
    dtype = torch.bfloat16 if wanted.half else torch.float32
    gradients, narrow = Gradients.like(states, n_items, wanted), states.to(dtype).contiguous()
    token_blocks, item_blocks = blocks(
        len(states), n_items, dtype.itemsize, states.device.type, splits=kernel.splits
    )
    if kernel.multiplies and not wanted.half and len(item_blocks) == 1:
        _take_all(kernel, narrow, vectors(item_blocks[0]), gradients, wanted)
        return gradients
    found = {items.start: vectors(items) for items in item_blocks} if len(item_blocks) == 1 else {}
    for tokens in token_blocks:
        for items in item_blocks:
            of_items = found.get(items.start) or vectors(items)
            block = _products(narrow[tokens], of_items)
            kernel.take(block, tokens, items)
        if not (wanted.of_states or wanted.of_table):
            continue
        factors = kernel.factors[tokens, None]
        of_tokens = scaled(states[tokens], factors).to(dtype)
        for items in item_blocks:
            if not found:
                of_items = vectors(items)
                block = _products(narrow[tokens], of_items)
                kernel.exponentials(block, tokens, items)
            if wanted.of_states:
                _add_product(gradients.states[tokens], block, of_items.factors)
            if wanted.of_table:
                _add_product(gradients.items[items], block.T, of_tokens)
        if wanted.of_states:
            gradients.states[tokens].mul_(factors)
    if wanted.of_table:
        for items in item_blocks:
            (found.get(items.start) or vectors(items)).gradient(gradients.items[items])
    return gradients


def _take_all(
    kernel: Kernel, states: torch.Tensor, of_items: ItemVectors, out: Gradients, wanted: Wanted
) -> None:
    width = states.shape[1]
    extra = -width % 16
    given = [F.pad(x, (0, extra)) if extra else x for x in (states, of_items.factors)]
    by = [F.pad(x, (0, extra)) if extra else x for x in out]
    states_array, items_array, by_states, by_items = (x.detach().numpy() for x in (*given, *by))
    kernel.take_all(
        (
            states_array,
            items_array,
            by_states if wanted.of_states else None,
            by_items if wanted.of_table else None,
        )
    )
    if extra:
        for padded, gradient in zip(by, out, strict=True):
            gradient.copy_(padded[:, :width])
    if wanted.of_table:
        of_items.gradient(out.items)


# A CPU core's second-level cache holds this, so that a block is still there between the products
# and the kernel; a GPU wants few and large launches. More is taken only where so few tokens would
# not pay for reading the items.
_PREFERRED_BYTES, _MOST_BYTES = {"cpu": 3 * 2**19}, 2**24
_ENOUGH_TOKENS, _FEWEST_TOKENS = 256, 64
_TILE = 1024  # tokens, and items, where items are too many for a block to have all


def blocks(
    n_tokens: int, n_items: int, itemsize: int, device: str, *, splits: bool
) -> tuple[list[slice], list[slice]]:
    """Ranges of tokens and of items, whose products make a block.

    All items at a time if that leaves tokens enough, because the logits are then computed once.
    """
    row = itemsize * max(n_items, 1)
    most = _MOST_BYTES // row
    n = max(_PREFERRED_BYTES.get(device, _MOST_BYTES) // row, min(most, _ENOUGH_TOKENS))
    if n >= min(_FEWEST_TOKENS, n_tokens) or not splits:
        return _ranges(n_tokens, max(n, 1)), [slice(0, n_items)]
    return _ranges(n_tokens, _TILE), _ranges(n_items, _TILE)


def _ranges(length: int, most: int) -> list[slice]:
    return [slice(start, min(start + most, length)) for start in range(0, length, most)]


_kept = threading.local()


def _buffer(shape: tuple[int, int], like: torch.Tensor) -> torch.Tensor:
    """Memory for a block. On a CPU it is kept by the thread: fresh pages at every step would cost
    more than what is written to them."""
    n_bytes = shape[0] * shape[1] * like.itemsize
    if like.device.type != "cpu":
        return like.new_empty(shape)
    kept = getattr(_kept, "buffer", None)
    if kept is None or kept.numel() < n_bytes:
        kept = _kept.buffer = torch.empty(n_bytes, dtype=torch.uint8)
    return kept[:n_bytes].view(like.dtype).view(shape)


def _products(states: torch.Tensor, vectors: ItemVectors) -> torch.Tensor:
    block = _buffer((len(states), len(vectors.factors)), states)
    return torch.mm(states, vectors.factors.T, out=block)


def scaled(states: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """``factors * states``, 0 for states that do not count, whatever they hold."""
    return (states * factors).masked_fill_(factors == 0, 0)


def _add_product(out: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    if a.dtype == out.dtype:
        out.addmm_(a, b)
    else:
        out.add_(torch.mm(a, b))


def as_array(block: torch.Tensor) -> npt.NDArray[Any]:
    """A block as the extension takes it: bfloat16 by its bits."""
    if block.dtype == torch.bfloat16:
        return block.view(torch.int16).numpy().view(np.uint16)
    return block.numpy()
