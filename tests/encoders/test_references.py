"""The newer encoders against their formulas, and what they learn from against their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pdrec_fast.encoders import ENCODER_CONFIGS, ENCODERS, PrefixEncoder, prefixes
from pdrec_fast.encoders.diffused_target import DiffusedTarget, unit_scale
from tests.encoders.references import REFERENCES, cloze, denoised
from tests.rows import packed, random_rows

N_ITEMS, MAX_LENGTH = 40, 9
ROWS = random_rows([9, 1, 4, 6, 4], N_ITEMS, seed=3)
TIMES = [np.sort(np.random.default_rng(len(row)).exponential(3e4, len(row))) for row in ROWS]
SMALL: dict[str, dict[str, Any]] = {
    "caser": {"window": 4, "horizontal": 3, "vertical": 2},
    "diffurec": {"steps": 10, "scoring_steps": 3, "uncertainty": 0.3, "prefixes": 3},
    "diffrec-star": {"steps": 7, "scoring_steps": 2, "prefixes": 3},
    "hstu": {"time_buckets": 60},
    "mlp4rec": {"prefixes": 3},
    "bert4rec": {"mask": 0.3},
}
PREFIX = ["bert4rec", "diffrec-star", "diffurec", "mlp4rec"]
DIFFUSED = ["diffrec-star", "diffurec"]


def made(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    options = {"width": 12, "max_length": MAX_LENGTH} | SMALL.get(name, {}) | options
    encoder = ENCODERS[name](N_ITEMS, ENCODER_CONFIGS[name](**options)).double()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return encoder.eval()


def batch_of(rows: list[list[int]] = ROWS, epoch: int = 0, **options: Any) -> Any:
    times = [TIMES[0][-len(row) :] for row in rows]
    options = {"seed": 5, "times": times} | options
    return packed(rows, N_ITEMS, MAX_LENGTH, epoch=epoch, **options)


def close(left: torch.Tensor, right: torch.Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_states_are_those_of_the_formulas(name: str) -> None:
    encoder, batch = made(name), batch_of()
    lengths = batch.lengths.tolist()
    parts = [x.split(lengths) for x in (encoder(batch), batch.items, batch.times)]
    for states, items, times in zip(*parts, strict=True):
        close(states, REFERENCES[name](encoder, items, times))


def test_one_block_and_more_heads() -> None:
    for name in ("bert4rec", "diffurec", "hstu", "ligr"):
        encoder, batch = made(name, blocks=1, heads=3), batch_of(ROWS[:1])
        close(encoder(batch), REFERENCES[name](encoder, batch.items, batch.times))


@pytest.mark.parametrize("name", ["bert4rec", "diffurec", "mlp4rec"])
def test_scored_in_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, batch = made(name), batch_of()
    monkeypatch.setattr(prefixes, "_CELLS", 2 * 9**2)
    close(encoder.last_states(batch), encoder(batch)[batch.last])


# --- times ---------------------------------------------------------------------------------------


READING = {"hstu": {}, "ligr": {"time_buckets": 60}}


def test_ligr_with_times_is_that_of_its_formula() -> None:
    encoder, batch = made("ligr", **READING["ligr"]), batch_of(ROWS[:1])
    close(encoder(batch), REFERENCES["ligr"](encoder, batch.items, batch.times))


@pytest.mark.parametrize("name", READING)
def test_times_between_items_are_read_and_no_later_one(name: str) -> None:
    encoder, row = made(name, **READING[name]), [ROWS[0]]
    assert encoder.reads_times
    before = encoder(batch_of(row))
    shifted = encoder(batch_of(row, times=[TIMES[0] + 7e5]))
    close(shifted, before)
    later = TIMES[0].copy()
    later[5:] += 9e6
    after = encoder(batch_of(row, times=[later]))
    close(after[:5], before[:5])
    assert ((after[5:] - before[5:]).abs().amax(dim=1) > 1e-6).all()


@pytest.mark.parametrize("name", READING)
def test_without_times(name: str) -> None:
    with pytest.raises(ValueError, match=rf"(?i)^{name} .* here are none: .*time_buckets=0"):
        made(name, **READING[name])(batch_of(times=None))
    encoder = made(name, time_buckets=0)
    assert not encoder.reads_times
    assert not [key for key in encoder.state_dict() if "time" in key]
    close(encoder(batch_of(times=None)), encoder(batch_of()))


def test_weights_of_hstu_are_named_as_saved_models_have_them() -> None:
    encoder = made("hstu", blocks=1)
    names = ["norm", "mix", "attended_norm", "out"]
    names = [f"blocks.0.{name}.{kind}" for name in names for kind in ("weight", "bias")]
    names += ["blocks.0.distance_bias", "blocks.0.time_bias", "norm.weight", "norm.bias"]
    names += ["item_embedding.weight", "position_embedding.weight"]
    assert sorted(encoder.state_dict()) == sorted(names)
    assert encoder.blocks[0].time_bias.shape == (60,)


# --- what is learned from ------------------------------------------------------------------------


@pytest.mark.parametrize("name", PREFIX)
def test_the_choice_follows_from_seed_epoch_and_user_alone(name: str) -> None:
    encoder, batch = made(name), batch_of(users=[3, 1, 4, 10, 5])
    assert isinstance(encoder, PrefixEncoder)
    chosen = np.split(encoder.chosen(batch), batch.indptr[1:-1].numpy())
    alone = batch_of([ROWS[3]], users=[10])
    at = batch.sources.tolist().index(3)
    assert chosen[at].tolist() == encoder.chosen(alone).tolist()
    assert all(part[-1] for part in chosen)
    others = [encoder.chosen(batch_of(users=[3, 1, 4, 10, 5], epoch=e)).tolist() for e in (1, 2, 3)]
    assert any(other != np.concatenate(chosen).tolist() for other in others)
    with pytest.raises(ValueError, match=r"pack\(\.\.\., seed="):
        encoder.chosen(batch_of(seed=None))


@pytest.mark.parametrize("name", ["diffrec-star", "diffurec", "mlp4rec"])
def test_so_many_prefixes_of_a_sequence(name: str) -> None:
    rows = random_rows([9, 2, 3, 7], N_ITEMS)
    batch = batch_of(rows)
    parts = np.split(made(name).chosen(batch), batch.indptr[1:-1].numpy())
    assert [int(part.sum()) for part in parts] == [3, 3, 3, 2]
    seen = sum(made(name).chosen(batch_of(rows[:1], epoch=e)).astype(int) for e in range(100))
    assert seen[-1] == 100
    assert (abs(seen[:-1] - 25) < 20).all()  # 2 of 8: 25 +- 4.3


def test_the_share_of_masked_items() -> None:
    encoder = made("bert4rec", mask=0.25)
    rows = random_rows([9] * 500, N_ITEMS)
    batch = packed(rows, N_ITEMS, MAX_LENGTH, seed=1)
    share = encoder.chosen(batch).reshape(500, 9)[:, :-1].mean()
    assert abs(share - 0.25) < 0.03
    assert made("bert4rec", mask=0).chosen(batch).sum() == 500


# --- training states -----------------------------------------------------------------------------


def test_the_cloze_states_of_bert4rec() -> None:
    encoder, batch = made("bert4rec"), batch_of()
    tokens = torch.from_numpy(np.flatnonzero(encoder.chosen(batch)))
    targets = torch.zeros_like(tokens)  # not read: a target in the batch stands there already
    states = encoder.training_states(batch, tokens, targets)
    found = dict(zip(tokens.tolist(), states, strict=True))
    assert len(tokens) > len(batch)
    for start, stop in zip(batch.indptr[:-1].tolist(), batch.indptr[1:].tolist(), strict=True):
        chosen = [token for token in range(start, stop) if token in found]
        masked = torch.zeros(stop - start + 1, dtype=torch.bool)
        masked[[token + 1 - start for token in chosen]] = True
        items = torch.cat([batch.items[start:stop], torch.tensor([0])])
        expected = cloze(encoder, items, masked)
        for token in chosen:
            close(found[token], expected[token + 1 - start])


def test_a_masked_item_is_not_read() -> None:
    encoder, row = made("bert4rec"), list(ROWS[0])
    tokens = torch.tensor([2, 4, 8])
    before = encoder.training_states(batch_of([row]), tokens, tokens)
    row[3], row[5] = (row[3] + 1) % N_ITEMS, (row[5] + 1) % N_ITEMS
    close(encoder.training_states(batch_of([row]), tokens, tokens), before)
    row[4] = (row[4] + 1) % N_ITEMS
    assert not torch.allclose(encoder.training_states(batch_of([row]), tokens, tokens), before)


@pytest.mark.parametrize("name", ["diffrec-star", "diffurec", "mlp4rec"])
def test_no_training_state_reads_what_follows_its_target(name: str) -> None:
    encoder, row = made(name), list(ROWS[0])
    tokens, targets = torch.tensor([3, 8]), torch.tensor([row[4], 7])
    before = encoder.training_states(batch_of([row]), tokens, targets)
    row[5] = (row[5] + 1) % N_ITEMS
    after = encoder.training_states(batch_of([row]), tokens, targets)
    close(after[0], before[0])
    assert not torch.allclose(after[1], before[1])


@pytest.mark.parametrize("name", DIFFUSED)
def test_the_states_found_in_noise(name: str) -> None:
    encoder, batch = made(name), batch_of(users=[3, 1, 4, 10, 5])
    tokens = torch.tensor([0, 5, 8, 12, 23])
    targets = torch.tensor([1, 2, 3, 4, 5])
    states = encoder.training_states(batch, tokens, targets)
    steps, normals = encoder._draws(batch, tokens)
    width = encoder.item_embedding.embedding_dim
    for p, (token, target) in enumerate(zip(tokens.tolist(), targets.tolist(), strict=True)):
        start = int(batch.indptr[batch.rows[token]])
        items, signal = batch.items[start : token + 1], encoder.signal[steps[p]]
        clean = encoder.item_embedding.weight[target]
        clean = clean / clean.square().mean().sqrt()
        noisy = signal.sqrt() * clean + (1 - signal).sqrt() * normals[p, :width]
        spread = normals[p, width : width + len(items)].flip(0)
        close(states[p], denoised(encoder, items, noisy, int(steps[p]), spread))
    alone = batch_of([ROWS[3]], users=[10])
    at = batch.sources.tolist().index(3)
    own = int(batch.indptr[at]) + 2
    found = encoder.training_states(batch, torch.tensor([own]), torch.tensor([9]))
    close(encoder.training_states(alone, torch.tensor([2]), torch.tensor([9])), found)


def test_the_noise_is_normal_the_steps_uniform_and_nobodys_twice() -> None:
    encoder = made("diffrec-star")
    batch = packed(random_rows([9] * 400, N_ITEMS), N_ITEMS, MAX_LENGTH, seed=2)
    steps, normals = encoder._draws(batch, torch.arange(batch.n_tokens))
    counts = np.bincount(steps.numpy(), minlength=8)
    assert counts[0] == 0
    assert (abs(counts[1:] - 3600 / 7) < 100).all()
    assert abs(float(normals.mean())) < 0.02
    assert abs(float(normals.std()) - 1) < 0.02
    assert abs(float((normals**4).mean()) - 3) < 0.15
    assert len(normals.flatten().unique()) > 0.99 * normals.numel()
    assert abs(float(torch.corrcoef(normals[:, :6].T).triu(1).abs().max())) < 0.08


def test_steps_back_with_a_perfect_guess_end_there() -> None:
    class Knowing(DiffusedTarget):
        def denoised(self, seen: Any, x: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
            self.given.append((int(steps[0]), x))
            return self.answer.expand_as(x)

    config = ENCODER_CONFIGS["diffrec-star"](width=12, steps=10, scoring_steps=4)
    encoder = Knowing(N_ITEMS, config, pre_norm=False).double().eval()
    encoder.answer, encoder.given = unit_scale(torch.randn(1, 12).double()), []
    encoder.last_states(batch_of(ROWS[:2]))
    assert [step for step, _ in encoder.given] == [10, 8, 5, 3]
    # On the way the noise stays what it was, ever less of it.
    noise = (encoder.start - encoder.signal[10].sqrt() * encoder.answer) / (
        1 - encoder.signal[10]
    ).sqrt()
    for step, x in encoder.given:
        signal = encoder.signal[step]
        close(x, (signal.sqrt() * encoder.answer + (1 - signal).sqrt() * noise).expand_as(x))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bert4rec", {"mask": 1.5}, r"mask must lie in \[0, 1\], got 1.5"),
        ("bert4rec", {"width": 10, "heads": 3}, "width=10 must be a multiple of heads=3"),
        ("caser", {"window": 0}, "window must be at least 1, got 0"),
        ("caser", {"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ("mlp4rec", {"prefixes": 0}, "prefixes must be at least 1, got 0"),
        ("diffurec", {"uncertainty": -1.0}, "uncertainty must not be negative, got -1.0"),
        ("diffurec", {"scoring_steps": 40}, "scoring_steps=40 must be at most steps=32"),
        ("diffrec-star", {"steps": 2.5}, "steps must be a whole number, got 2.5"),
        ("ligr", {"expansion": 0}, "expansion must be at least 1, got 0"),
        ("hstu", {"time_buckets": -1}, "time_buckets must not be negative, got -1"),
        ("ligr", {"time_buckets": -1}, "time_buckets must not be negative, got -1"),
    ],
)
def test_options_out_of_range_are_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ENCODER_CONFIGS[name](**options)
