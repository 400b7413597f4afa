"""SASRec on packed sequences against an independent one on padded sequences, in float64."""

import math

import numpy as np
import pytest
import torch

from pdrec_fast.data import Histories
from pdrec_fast.data.sequences import PackedSequences, pack
from pdrec_fast.encoders import SASRec

N_ITEMS, WIDTH, MAX_LENGTH = 40, 12, 9
Parameters = dict[str, torch.Tensor]


def packed(rows: list[list[int]], max_length: int = MAX_LENGTH) -> PackedSequences:
    stops = np.cumsum([len(row) for row in rows])
    items = np.array([item for row in rows for item in row], dtype=np.int32)
    starts = stops - [len(row) for row in rows]
    return pack(Histories(items, None, np.arange(len(rows)), starts, stops, N_ITEMS), max_length)


def random_rows(lengths: tuple[int, ...], seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(N_ITEMS, size=length).tolist() for length in lengths]


def sasrec(*, heads: int = 1, blocks: int = 2, dropout: float = 0.0, seed: int = 0) -> SASRec:
    """In float64, all parameters random: zero biases and unit gains would hide mistakes."""
    torch.manual_seed(seed)
    model = SASRec(
        N_ITEMS, width=WIDTH, blocks=blocks, heads=heads, max_length=MAX_LENGTH, dropout=dropout
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def layer_norm(x: torch.Tensor, p: Parameters, name: str) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    return centred / (variance + 1e-8).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]


def padded_sasrec(p: Parameters, rows: list[list[int]], *, heads: int, blocks: int) -> torch.Tensor:
    """[B, MAX_LENGTH, WIDTH], right-aligned; real queries attend to real, earlier keys alone."""
    items = torch.full((len(rows), MAX_LENGTH), -1)
    for row, sequence in enumerate(rows):
        latest = sequence[-MAX_LENGTH:]
        items[row, MAX_LENGTH - len(latest) :] = torch.tensor(latest)
    real = items >= 0
    x = p["item_embedding.weight"][items.clamp_min(0)] * math.sqrt(WIDTH)
    x = (x + p["position_embedding.weight"]) * real[..., None]
    causal = torch.ones(MAX_LENGTH, MAX_LENGTH).tril().bool()
    allowed = causal & real[:, None, :]
    for number in range(blocks):
        name = f"blocks.{number}"
        queries = layer_norm(x, p, f"{name}.query_norm")
        w_q, w_k, w_v = p[f"{name}.in_weight"].split(WIDTH)
        b_q, b_k, b_v = p[f"{name}.in_bias"].split(WIDTH)
        q, k, v = queries @ w_q.T + b_q, x @ w_k.T + b_k, x @ w_v.T + b_v
        mixed = []
        for part in torch.arange(WIDTH).chunk(heads):
            similarity = q[..., part] @ k[..., part].mT / math.sqrt(len(part))
            exponentials = similarity.exp() * allowed
            attention = exponentials / exponentials.sum(-1, keepdim=True).clamp_min(1e-300)
            mixed.append(attention @ v[..., part])
        out = torch.cat(mixed, -1) @ p[f"{name}.out.weight"].T + p[f"{name}.out.bias"]
        x = layer_norm(queries + out, p, f"{name}.forward_norm")
        first, second = f"{name}.feed_forward.0", f"{name}.feed_forward.3"
        hidden = (x @ p[f"{first}.weight"].T + p[f"{first}.bias"]).clamp_min(0)
        x = x + hidden @ p[f"{second}.weight"].T + p[f"{second}.bias"]
    return layer_norm(x, p, "norm")


LENGTHS = [(1,), (3, 3, 3), (5, 1, 9, 2, 5, 14, 9, 7)]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(("heads", "blocks"), [(1, 1), (1, 2), (3, 2)])
def test_packed_equals_padded_with_gradients(
    lengths: tuple[int, ...], heads: int, blocks: int
) -> None:
    model, rows = sasrec(heads=heads, blocks=blocks), random_rows(lengths)
    batch = packed(rows)
    parameters = dict(model.named_parameters())
    states = model(batch)
    padded = padded_sasrec(
        parameters, [rows[row] for row in batch.sources], heads=heads, blocks=blocks
    )
    expected = batch.unpad(padded)
    torch.testing.assert_close(states, expected, rtol=1e-10, atol=1e-10)

    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(states.shape, generator=generator, dtype=torch.float64)
    found = torch.autograd.grad((states * direction).sum(), list(parameters.values()))
    wanted = torch.autograd.grad((expected * direction).sum(), list(parameters.values()))
    for name, left, right in zip(parameters, found, wanted, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-8, atol=1e-10, msg=lambda m, n=name: n + m)


def test_float32_is_within_tolerance_of_float64() -> None:
    exact, single = sasrec(), sasrec().float()
    batch = packed(random_rows((5, 1, 9, 2, 5)))
    torch.testing.assert_close(single(batch).double(), exact(batch), rtol=1e-5, atol=1e-5)


def test_positions_matter_from_the_end() -> None:
    """With the embeddings of all but the last position changed, only longer sequences change."""
    model = sasrec()
    batch = packed([[3], [3, 4]])
    before = model(batch)
    with torch.no_grad():
        model.position_embedding.weight[:-1] += 1.0
    after = model(batch)
    changed = (before - after).abs().amax(dim=1) > 1e-6
    assert changed.tolist() == [True, True, False]


def test_dropout_acts_in_training_alone() -> None:
    model, batch = sasrec(dropout=0.5), packed(random_rows((4, 6, 6)))
    model.train()
    assert not torch.equal(model(batch), model(batch))
    model.eval()
    torch.testing.assert_close(model(batch), sasrec(dropout=0.0)(batch))


def test_dropout_reaches_the_attention_weights() -> None:
    model, batch = sasrec(blocks=1), packed([[1, 2, 3, 4, 5]])
    model.blocks[0].attention_dropout = 0.5
    assert not torch.equal(model(batch), model(batch))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match=r"width=12.*heads=5"):
        sasrec(heads=5)


def test_initial_weights_are_xavier_normal() -> None:
    torch.manual_seed(0)
    model = SASRec(3000, width=64)
    spread = math.sqrt(2 / (3000 + 64))
    assert model.item_embedding.weight.std().item() == pytest.approx(spread, rel=0.02)
    assert not model.blocks[0].out.bias.any()
