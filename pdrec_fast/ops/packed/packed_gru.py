"""A layer of gated recurrent units over packed sequences in order of time."""

from __future__ import annotations

from typing import Any

import torch

from pdrec_fast.operands import GruLayer
from pdrec_fast.ops.declaration import operation
from pdrec_fast.ops.dispatch import choose
from pdrec_fast.reference.packed import packed_gru as reference


def packed_gru(
    x: torch.Tensor,
    sizes: torch.Tensor,
    in_weight: torch.Tensor,
    weight: torch.Tensor,
    in_bias: torch.Tensor,
    bias: torch.Tensor,
    *,
    impl: str = "auto",
) -> torch.Tensor:
    """``torch.nn.GRU``'s states of a ``PackedSequence``, after every token.

    With the reset after the product (Cho et al., 2014, as torch has it): ``r = σ(Wr x + ar + Ur h +
    br)``, ``z = σ(Wz x + az + Uz h + bz)``, ``n = tanh(Wn x + an + r (Un h + bn))``, ``h' = n + z
    (h - n)``, from ``h = 0``. Differentiable (once) in all but ``sizes``.

    Args:
        x: [T, e], the tokens in order of time as in ``torch.nn.utils.rnn.PackedSequence``: the
            first of every sequence, then the second of those that have one, ...; the longest
            sequence always first.
        sizes: int64 [L] on the host, how many sequences reach each place: at least 1, not rising.
        in_weight, in_bias: W [3 H, e] and a [3 H]: reset, update, new, as in ``torch.nn.GRU``.
        weight, bias: U [3 H, H] and b [3 H].
        impl: ``"auto"``, ``"steps"`` (on the CPU: forward and backward leave to each step no more
            than its recurrence; all else is done for all tokens at once) or ``"reference"``
            (torch's own, cuDNN's on a GPU).

    Returns:
        [T, H], in the order of ``x``.

    Raises:
        ValueError: shapes do not fit, or ``sizes`` is not what it should be.
        BackendError: the named implementation cannot run here.
    """
    layer = GruLayer(in_weight, weight, in_bias, bias)
    _check_shapes(x, layer)
    _check_sizes(sizes, len(x))
    on_cpu = x.device.type == "cpu"
    steps = None if on_cpu else f"it runs on the CPU, got a tensor on {x.device.type}"
    offered = {"steps": steps, "reference": None}
    # On a GPU torch's own is the choice, not a stopgap that a warning should name.
    chosen = choose("packed_gru", impl, offered if on_cpu else dict(reversed(offered.items())))
    if not len(x):
        return x.new_zeros((0, weight.shape[1]))
    if chosen == "reference":
        return reference.packed_gru(x, sizes, layer)
    return _packed_gru(x, sizes, layer)[0]


def _check_shapes(x: torch.Tensor, layer: GruLayer) -> None:
    if x.ndim != 2 or layer.weight.ndim != 2:
        raise ValueError(
            "x must have shape [T, e] and weight [3 H, H], got "
            f"{tuple(x.shape)} and {tuple(layer.weight.shape)}"
        )
    hidden = layer.weight.shape[1]
    gates = 3 * hidden
    shapes = (gates, x.shape[1]), (gates, hidden), (gates,), (gates,)
    for name, tensor, shape in zip(layer._fields, layer, shapes, strict=True):
        if tensor.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")


def _check_sizes(sizes: torch.Tensor, n_tokens: int) -> None:
    if sizes.ndim != 1 or sizes.dtype != torch.int64 or sizes.device.type != "cpu":
        raise ValueError(
            "sizes must be an int64 tensor of shape [L] on the host, got "
            f"{sizes.dtype} of shape {tuple(sizes.shape)} on {sizes.device}"
        )
    array = sizes.numpy()
    if array.sum() != n_tokens or (array < 1).any() or (array[1:] > array[:-1]).any():
        raise ValueError(
            f"sizes must be at least 1, not rise, and sum to {n_tokens}, the number of tokens, "
            f"got {array}"
        )


def _by_step(sizes: torch.Tensor, *tensors: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """The rows of every tensor that belong to each step."""
    counts = sizes.tolist()
    return list(zip(*(tensor.split(counts) for tensor in tensors), strict=True))


@operation(
    fake=lambda a: (
        a.x.new_empty((len(a.x), a.layer.weight.shape[1])),
        a.x.new_empty((len(a.x), 4 * a.layer.weight.shape[1])),
    ),
    autocast={"cpu": torch.float32},
)
def _packed_gru(
    x: torch.Tensor, sizes: torch.Tensor, layer: GruLayer
) -> tuple[torch.Tensor, torch.Tensor]:
    """(states [T, H], gates [T, 4 H]: n, r, z and Un h + bn)."""
    hidden = layer.weight.shape[1]
    outer = torch.addmm(layer.in_bias, x, layer.in_weight.t())
    states, gates = x.new_empty((len(x), hidden)), x.new_empty((len(x), 4 * hidden))
    n, r, z, inner_n = gates.chunk(4, dim=1)
    across, before = layer.weight.t(), x.new_zeros((int(sizes[0]), hidden))
    for outer_rz, outer_n, inner, rz_, n_, r_, z_, inner_n_, state in _by_step(
        sizes,
        outer[:, : 2 * hidden],
        outer[:, 2 * hidden :],
        gates[:, hidden:],
        gates[:, hidden : 3 * hidden],
        n,
        r,
        z,
        inner_n,
        states,
    ):
        before = before[: len(state)]
        torch.addmm(layer.bias, before, across, out=inner)
        rz_.add_(outer_rz).sigmoid_()
        torch.addcmul(outer_n, r_, inner_n_, out=n_).tanh_()
        before = torch.lerp(n_, before, z_, out=state)
    return states, gates


@operation(fake=lambda a: (a.x.new_empty(a.x.shape), *(w.new_empty(w.shape) for w in a.layer)))
def _packed_gru_backward(
    grad_states: torch.Tensor,
    x: torch.Tensor,
    sizes: torch.Tensor,
    layer: GruLayer,
    states: torch.Tensor,
    gates: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of x and, in their order, of the layer's parameters.

    What a gate's argument gets of a state's gradient is known for all tokens beforehand; the walk
    back in time only multiplies by it and crosses ``weight``.
    """
    n, r, z, inner_n = gates.chunk(4, dim=1)
    before = _states_before(states, sizes)
    to_n = (1 - z) * (1 - n * n)
    factors = torch.stack([to_n * inner_n * r * (1 - r), (before - n) * z * (1 - z), to_n * r], 1)
    grad_inner = torch.empty_like(factors)
    total = grad_states.clone()  # of every state, with what comes back from the next token
    next_total = total[:0]
    by_step = _by_step(sizes, total, z, factors, grad_inner, grad_inner.flatten(1))
    for grad_state, z_, factor, grad_gates, grad_product in reversed(by_step):
        grad_state[: len(next_total)] += next_total
        torch.mul(grad_state.unsqueeze(1), factor, out=grad_gates)
        next_total = torch.addmm(grad_state * z_, grad_product, layer.weight)
    grad_outer = grad_inner.clone()
    torch.mul(total, to_n, out=grad_outer[:, 2])
    grad_inner, grad_outer = grad_inner.flatten(1), grad_outer.flatten(1)
    return (
        grad_outer @ layer.in_weight,
        grad_outer.t() @ x,
        grad_inner.t() @ before,
        grad_outer.sum(0),
        grad_inner.sum(0),
    )


def _states_before(states: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """The state that every token found, [T, H]."""
    counts = sizes.tolist()
    earlier = [x[:n] for x, n in zip(states.split(counts), counts[1:], strict=False)]
    return torch.cat([states.new_zeros((counts[0], states.shape[1])), *earlier])


@_packed_gru.gradient(
    of=["x", *GruLayer._fields], saves=["x", "sizes", "layer"], outputs=[0, 1], constant=[1]
)
def _(saved: Any, grad_states: torch.Tensor, _: None) -> tuple[torch.Tensor, ...]:
    return _packed_gru_backward(
        grad_states.contiguous(), saved.x, saved.sizes, saved.layer, *saved.outputs
    )
