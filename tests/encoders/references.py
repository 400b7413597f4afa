"""The newer encoders in plain PyTorch, one sequence at a time and without padding where they need
none: from their formulas, on the weights of the encoder that is tested."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pdrec_fast.encoders.diffused_target import DiffusedTarget


def _layers(encoder: Any, *, pre_norm: bool) -> nn.Sequential:
    """torch's own layers with the weights of the encoder's blocks."""
    made = []
    for block in encoder.blocks:
        width = block.mix.in_features
        options: dict[str, Any] = {"norm_first": pre_norm, "dtype": torch.float64}
        layer = nn.TransformerEncoderLayer(
            width, block.heads, 4 * width, 0.0, F.gelu, batch_first=True, **options
        )
        parts = block.attention_out, block.hidden, block.forward_out
        norms = block.attention_norm, block.forward_norm
        pairs = [
            *zip((layer.self_attn.out_proj, layer.linear1, layer.linear2), parts, strict=True),
            *zip((layer.norm1, layer.norm2), norms, strict=True),
        ]
        for mine, theirs in pairs:
            mine.load_state_dict(theirs.state_dict())
        layer.self_attn.in_proj_weight.data = block.mix.weight.data
        layer.self_attn.in_proj_bias.data = block.mix.bias.data
        made.append(layer)
    return nn.Sequential(*made)


def _items(encoder: Any, items: torch.Tensor) -> torch.Tensor:
    return encoder.item_embedding.weight[items] * encoder.item_embedding.embedding_dim**0.5


def cloze(encoder: Any, items: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
    """BERT4Rec: the states of all places of a sequence in which some are masked."""
    mask = encoder.mask_embedding * len(encoder.mask_embedding) ** 0.5
    x = torch.where(masked[:, None], mask, _items(encoder, items))
    places = encoder.max_length + 1 - len(items) + torch.arange(len(items))
    x = encoder.input_norm(x + encoder.position_embedding.weight[places])
    x = _layers(encoder, pre_norm=False)(x[None])[0]
    return encoder.norm(F.gelu(encoder.project(x)))


def bert4rec(encoder: Any, items: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """[L, width]: after every item, of a mask that follows."""
    states = []
    for end in range(1, len(items) + 1):
        padded = F.pad(items[:end], (0, 1))
        states.append(cloze(encoder, padded, torch.arange(end + 1) == end)[-1])
    return torch.stack(states)


def caser(encoder: Any, items: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    states, size = [], encoder.window
    for end in range(1, len(items) + 1):
        e = F.pad(_items(encoder, items[max(end - size, 0) : end]), (0, 0, max(size - end, 0), 0))
        e = e.flip(0)  # the latest first
        found = []
        for filters in encoder.horizontal:
            height = filters.kernel_size[0]
            for kernel, bias in zip(filters.weight, filters.bias, strict=True):
                values = [
                    torch.relu((e[i : i + height] * kernel.T).sum() + bias)
                    for i in range(size - height + 1)
                ]
                found.append(torch.stack(values).max())
        across = [(column[:, None] * e).sum(0) for column in encoder.vertical.weight]
        down = torch.stack(across, dim=1).flatten()
        mixed = torch.relu(encoder.mix(torch.cat([torch.stack(found), down])))
        states.append(encoder.out(mixed))
    return torch.stack(states)


def mlp4rec(encoder: Any, items: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    states = []
    for end in range(1, len(items) + 1):
        x = torch.zeros(encoder.max_length, encoder.item_embedding.embedding_dim).double()
        x[:end] = _items(encoder, items[:end]).flip(0)
        for _ in range(encoder.layers):
            mixer = encoder.places
            hidden = F.gelu(mixer.hidden.weight @ mixer.norm(x) + mixer.hidden.bias[:, None])
            x = x + mixer.out.weight @ hidden + mixer.out.bias[:, None]
            mixer = encoder.channels
            x = x + mixer.out(F.gelu(mixer.hidden(mixer.norm(x))))
        states.append(encoder.norm(x[0]))
    return torch.stack(states)


def ligr(encoder: Any, items: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    n = len(items)
    x = _items(encoder, items) + encoder.position_embedding.weight[-n:]
    later = torch.ones(n, n).triu(1).bool()
    for block in encoder.blocks:
        h = block.attention_norm(x)
        parts = []
        q, k, v = (part.chunk(block.heads, dim=1) for part in block.mix(h).chunk(3, dim=1))
        for a, b, c in zip(q, k, v, strict=True):
            scores = a @ b.T / math.sqrt(a.shape[1])
            if block.time_bias is not None:
                scores = scores + block.time_bias[_buckets(times, len(block.time_bias))]
            scores = scores.masked_fill(later, -torch.inf)
            parts.append(scores.softmax(dim=1) @ c)
        added = block.attention_out(torch.cat(parts, dim=1))
        x = x + torch.sigmoid(block.attention_gate(x)) * added
        gate, up = block.gated.weight.chunk(2)
        h = block.forward_norm(x)
        added = block.forward_out(F.silu(h @ gate.T) * (h @ up.T))
        x = x + torch.sigmoid(block.forward_gate(x)) * added
    return encoder.norm(x)


def _buckets(times: torch.Tensor, most: int) -> torch.Tensor:
    """Of the time between any two items."""
    between = (times[:, None] - times).abs().tolist()
    found = [[int(math.log(max(x, 1.0)) / 0.301) for x in row] for row in between]
    return torch.tensor(found).clamp_max(most - 1)


def hstu(encoder: Any, items: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    n = len(items)
    x = _items(encoder, items) + encoder.position_embedding.weight[-n:]
    for block in encoder.blocks:
        u, v, q, k = F.silu(block.mix(block.norm(x))).chunk(4, dim=1)
        size = q.shape[1] // block.heads
        rows, buckets = [], _buckets(times, len(block.time_bias))
        for i in range(n):
            row = torch.zeros_like(v[0])
            for j in range(i + 1):
                bias = block.distance_bias[i - j] + block.time_bias[buckets[i, j]]
                for head in range(block.heads):
                    part = slice(head * size, (head + 1) * size)
                    row[part] += F.silu(q[i, part] @ k[j, part] + bias) * v[j, part] / (i + 1)
            rows.append(row)
        x = x + block.out(block.attended_norm(torch.stack(rows)) * u)
    return encoder.norm(x)


def denoised(encoder: Any, items: torch.Tensor, x: torch.Tensor, step: int, spread: Any = 0):
    """DiffuRec and DiffRec*: x_0 as it is guessed from x [width] after some items."""
    n, width = len(items), len(x)
    places = encoder.position_embedding.weight[1 : n + 1].flip(0)
    e = encoder.input_norm(_items(encoder, items) + places)
    half = (width + 1) // 2
    angles = step * 10_000.0 ** (-torch.arange(half).double() / half)
    x = x + encoder.step_map(torch.cat([angles.cos(), angles.sin()])[:width])
    if hasattr(encoder, "uncertainty"):
        shares = encoder.uncertainty * (1 + torch.as_tensor(spread).double().expand(n))
        z = _layers(encoder, pre_norm=True)((e + shares[:, None] * x)[None])[0]
    else:
        last = x + encoder.position_embedding.weight[0]
        z = _layers(encoder, pre_norm=False)(torch.cat([e, last[None]])[None])[0]
    return encoder.norm(z[-1])


def diffused(encoder: DiffusedTarget, items: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    rates = [(0.1 + 19.9 * s / (encoder.steps - 1)) / encoder.steps for s in range(encoder.steps)]
    exact = [math.prod(1 - min(rate, 0.999) for rate in rates[:s]) for s in range(len(rates) + 1)]
    signal = encoder.signal
    torch.testing.assert_close(signal, torch.tensor(exact).double(), rtol=1e-5, atol=1e-7)
    count, states = encoder.scoring_steps, []
    for end in range(1, len(items) + 1):
        x = encoder.start
        for left in range(count, 0, -1):
            now, then = (math.ceil(encoder.steps * n / count) for n in (left, left - 1))
            state = denoised(encoder, items[:end], x, now)
            guess = state / state.square().mean().sqrt()
            noise = (x - signal[now] ** 0.5 * guess) / (1 - signal[now]) ** 0.5
            x = signal[then] ** 0.5 * guess + (1 - signal[then]) ** 0.5 * noise
        states.append(state)
    return torch.stack(states)


REFERENCES: dict[str, Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "bert4rec": bert4rec,
    "caser": caser,
    "diffrec-star": diffused,
    "diffurec": diffused,
    "hstu": hstu,
    "ligr": ligr,
    "mlp4rec": mlp4rec,
}
