"""SASRec on packed sequences against an independent one on padded sequences, in float64."""

import math

import pytest
import torch

from pdrec_fast.build_info import extension
from pdrec_fast.data.sequences import PackedSequences
from pdrec_fast.encoders import SASRec
from pdrec_fast.ops.packed._sequences import DropoutKey
from pdrec_fast.reference.counter_rng import words
from tests.rows import packed as packed_rows
from tests.rows import random_rows

N_ITEMS, WIDTH, MAX_LENGTH = 40, 12, 9
P = 0.3
Parameters = dict[str, torch.Tensor]


def packed(rows: list[list[int]], seed: int | None = None) -> PackedSequences:
    return packed_rows(rows, N_ITEMS, MAX_LENGTH, seed=seed, epoch=2)


def sasrec(*, heads: int = 1, blocks: int = 2, dropout: float = 0.0, impl: str = "auto") -> SASRec:
    """In float64, all parameters random: zero biases and unit gains would hide mistakes."""
    torch.manual_seed(0)
    model = SASRec(
        N_ITEMS,
        width=WIDTH,
        blocks=blocks,
        heads=heads,
        max_length=MAX_LENGTH,
        dropout=dropout,
        impl=impl,
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def layer_norm(x: torch.Tensor, p: Parameters, name: str) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    return centred / (variance + 1e-8).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]


class Dropout:
    """Factors of dropout, right-aligned; all ones without a key."""

    def __init__(self, rows: list[list[int]], key: DropoutKey | None) -> None:
        self.lengths, self.key = [min(len(row), MAX_LENGTH) for row in rows], key

    def _factors(self, row: int, stream: int, n_words: int) -> torch.Tensor:
        if self.key is None:
            return torch.ones(n_words, dtype=torch.float64)
        user = self.key.users[row : row + 1].numpy()
        word = words(self.key.seed, self.key.epoch, user, n_words, stream)[0]
        return (word >= round(P * 2**32)).double() / (1 - P)

    def of_tokens(self, stream: int) -> torch.Tensor:
        out = torch.ones(len(self.lengths), MAX_LENGTH, WIDTH, dtype=torch.float64)
        for row, length in enumerate(self.lengths):
            factors = self._factors(row, stream, length * WIDTH)
            out[row, MAX_LENGTH - length :] = factors.view(length, WIDTH)
        return out

    def of_weights(self, stream: int, heads: int) -> torch.Tensor:
        out = torch.ones(len(self.lengths), heads, MAX_LENGTH, MAX_LENGTH, dtype=torch.float64)
        for row, length in enumerate(self.lengths):
            row_words = math.ceil(length / 4) * 4
            factors = self._factors(row, stream, heads * length * row_words)
            first = MAX_LENGTH - length
            out[row, :, first:, first:] = factors.view(heads, length, row_words)[..., :length]
        return out


def padded_sasrec(
    p: Parameters,
    rows: list[list[int]],
    *,
    heads: int,
    blocks: int,
    key: DropoutKey | None = None,
) -> torch.Tensor:
    """[B, MAX_LENGTH, WIDTH], right-aligned; real queries attend to real, earlier keys alone."""
    dropout = Dropout(rows, key)
    items = torch.full((len(rows), MAX_LENGTH), -1)
    for row, sequence in enumerate(rows):
        latest = sequence[-MAX_LENGTH:]
        items[row, MAX_LENGTH - len(latest) :] = torch.tensor(latest)
    real = items >= 0
    x = p["item_embedding.weight"][items.clamp_min(0)] * math.sqrt(WIDTH)
    x = (x + p["position_embedding.weight"]) * real[..., None] * dropout.of_tokens(16)
    causal = torch.ones(MAX_LENGTH, MAX_LENGTH).tril().bool()
    allowed = causal & real[:, None, :]
    for number in range(blocks):
        name = f"blocks.{number}"
        queries = layer_norm(x, p, f"{name}.query_norm")
        w_q, w_k, w_v = p[f"{name}.in_weight"].split(WIDTH)
        b_q, b_k, b_v = p[f"{name}.in_bias"].split(WIDTH)
        q, k, v = queries @ w_q.T + b_q, x @ w_k.T + b_k, x @ w_v.T + b_v
        mixed, factors = [], dropout.of_weights(17 + 3 * number, heads)
        for head, part in enumerate(torch.arange(WIDTH).chunk(heads)):
            similarity = q[..., part] @ k[..., part].mT / math.sqrt(len(part))
            exponentials = similarity.exp() * allowed
            attention = exponentials / exponentials.sum(-1, keepdim=True).clamp_min(1e-300)
            mixed.append((attention * factors[:, head]) @ v[..., part])
        out = torch.cat(mixed, -1) @ p[f"{name}.out.weight"].T + p[f"{name}.out.bias"]
        x = layer_norm(queries + out, p, f"{name}.forward_norm")
        hidden = x @ p[f"{name}.hidden.weight"].T + p[f"{name}.hidden.bias"]
        hidden = (hidden * dropout.of_tokens(18 + 3 * number)).clamp_min(0)
        out = hidden @ p[f"{name}.forward_out.weight"].T + p[f"{name}.forward_out.bias"]
        x = x + out * dropout.of_tokens(19 + 3 * number)
    return layer_norm(x, p, "norm")


LENGTHS = [(1,), (3, 3, 3), (5, 1, 9, 2, 5, 14, 9, 7)]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(("heads", "blocks"), [(1, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("dropout", [0.0, P])
def test_packed_equals_padded_with_gradients(
    lengths: tuple[int, ...], heads: int, blocks: int, dropout: float
) -> None:
    model, rows = sasrec(heads=heads, blocks=blocks, dropout=dropout), random_rows(lengths, N_ITEMS)
    batch = packed(rows, seed=11)
    key = batch.dropout_key if dropout else None
    parameters = dict(model.named_parameters())
    states = model(batch)
    padded = padded_sasrec(
        parameters, [rows[row] for row in batch.sources], heads=heads, blocks=blocks, key=key
    )
    expected = batch.unpad(padded)
    torch.testing.assert_close(states, expected, rtol=1e-10, atol=1e-10)

    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(states.shape, generator=generator, dtype=torch.float64)
    found = torch.autograd.grad((states * direction).sum(), list(parameters.values()))
    wanted = torch.autograd.grad((expected * direction).sum(), list(parameters.values()))
    for name, left, right in zip(parameters, found, wanted, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-8, atol=1e-10, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize(
    "impl",
    [
        "reference",
        pytest.param("cpp", marks=pytest.mark.skipif(extension is None, reason="not built")),
    ],
)
@pytest.mark.parametrize("dropout", [0.0, P])
def test_float32_is_within_tolerance_of_float64(impl: str, dropout: float) -> None:
    exact = sasrec(heads=3, dropout=dropout, impl="reference")
    single = sasrec(heads=3, dropout=dropout, impl=impl).float()
    batch = packed(random_rows((5, 1, 9, 2, 5), N_ITEMS), seed=11)
    expected, found = exact(batch), single(batch)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    wanted = torch.autograd.grad(expected.square().sum(), list(exact.parameters()))
    gradients = torch.autograd.grad(found.square().sum(), list(single.parameters()))
    for left, right in zip(gradients, wanted, strict=True):
        atol = 1e-4 * float(right.abs().max())
        torch.testing.assert_close(left.double(), right, rtol=1e-4, atol=atol)


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
    model, batch = sasrec(dropout=0.5), packed(random_rows((4, 6, 6), N_ITEMS))
    model.train()
    assert not torch.equal(model(batch), model(batch))
    model.eval()
    torch.testing.assert_close(model(batch), sasrec(dropout=0.0)(batch))


def test_without_a_key_dropout_follows_torchs_generator() -> None:
    model, batch = sasrec(dropout=0.5), packed(random_rows((4, 6, 6), N_ITEMS))
    torch.manual_seed(5)
    first = model(batch)
    torch.manual_seed(5)
    assert torch.equal(model(batch), first)


def test_with_a_key_a_users_dropout_is_the_same_in_every_batch() -> None:
    model, rows = sasrec(dropout=0.5), random_rows((4, 6, 5), N_ITEMS)
    states = model(packed(rows, seed=3))  # of the rows 1, 2, 0
    torch.testing.assert_close(
        model(packed(rows[:2], seed=3)), torch.cat([states[:6], states[11:]])
    )
    assert not torch.allclose(model(packed(rows, seed=4)), states)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match=r"width=12.*heads=5"):
        sasrec(heads=5)


def test_initial_weights_are_xavier_normal() -> None:
    torch.manual_seed(0)
    model = SASRec(3000, width=64)
    spread = math.sqrt(2 / (3000 + 64))
    assert model.item_embedding.weight.std().item() == pytest.approx(spread, rel=0.02)
    assert not model.blocks[0].out.bias.any()
