"""What the denoiser is trained on: cuts of histories, weights around them, masks."""

import numpy as np
import pytest
import torch

from pdrec_fast.data import Interactions, synthetic
from pdrec_fast.diffusion import DiffRec, DiffusionConfig
from pdrec_fast.diffusion.targets import TrainingRows
from pdrec_fast.errors import DataError

LATER = DiffusionConfig(
    weighting="decay", w_min=0.0, decay=0.5, target="later", earlier_weight=0.25, cut_every=100
)
CPU = torch.device("cpu")


def of_lengths(*lengths):
    """Users of so many records, no item twice."""
    indptr = np.cumsum([0, *lengths])
    n = int(indptr[-1])
    return Interactions(
        indptr, np.arange(n), np.arange(float(n)), np.arange(len(lengths)), np.arange(n)
    )


def epoch(rows, seed=0, order=None):
    order = np.arange(len(rows)) if order is None else order
    return rows.epoch(order, torch.Generator().manual_seed(seed), CPU)


def row(block, i):
    """{item: weight} of row i, noised and predicted."""
    found = []
    for rows in (block.noised, block.predicted):
        entries = slice(int(rows.indptr[i]), int(rows.indptr[i + 1]))
        found.append(
            dict(zip(rows.items[entries].tolist(), rows.values[entries].tolist(), strict=True))
        )
    return found


def test_a_cut_parts_a_history_and_weights_fall_on_both_sides():
    rows = TrainingRows(of_lengths(4).histories(), LATER)
    seen = set()
    for seed in range(30):
        noised, predicted = row(epoch(rows, seed), 0)
        cut = len(noised)
        seen.add(cut)
        assert noised == {i: 0.5 ** (cut - 1 - i) for i in range(cut)}
        before = {i: 0.25 * 0.5 ** (cut - 1 - i) for i in range(cut)}
        after = {i: 0.5 ** (i - cut) for i in range(cut, 4)}
        assert predicted == before | after
    assert seen == {1, 2, 3}  # something before, something after


def test_an_item_that_occurs_again_has_its_nearest_weight():
    """However far its last occurrence lies from the cut, and whether or not it is trimmed."""
    items = np.array([0, 1, 2, 1, *range(3, 43), 1, 2])
    n = len(items)
    data = Interactions(np.array([0, n]), items, np.arange(float(n)), np.arange(1), np.arange(43))
    rows = TrainingRows(data.histories(), LATER)
    for cut in range(1, n):
        _, predicted = rows._cut(np.array([0]), np.array([(cut - 0.5) / (n - 1)]))
        wanted = np.zeros(43)
        for i, item in enumerate(items):
            weight = 0.5 ** (i - cut) if i >= cut else 0.25 * 0.5 ** (cut - 1 - i)
            wanted[item] = max(weight, wanted[item])
        np.testing.assert_allclose(predicted.dense()[0], wanted, atol=1.1e-3)  # trimmed beyond


def test_without_a_weight_before_the_cut_the_later_ones_are_predicted_alone():
    config = DiffusionConfig(target="later", earlier_weight=0.0, cut_every=100, decay=0.5)
    noised, predicted = row(epoch(TrainingRows(of_lengths(5).histories(), config)), 0)
    assert min(predicted) == len(noised)
    assert max(predicted) == 4


def test_long_histories_are_cut_once_in_every_part():
    config = DiffusionConfig(target="later", cut_every=10, weighting="none", decay=1.0)
    rows = TrainingRows(of_lengths(41, 1, 11, 12).histories(), config)
    assert rows.users.tolist() == [0, 4, 5, 6, 2, 3, 7]  # further rows have keys of their own
    cuts = [[len(row(epoch(rows, seed), i)[0]) for i in range(4)] for seed in range(20)]
    for place, found in enumerate(zip(*cuts, strict=True)):
        assert min(found) >= 10 * place + 1
        assert max(found) <= 10 * place + 10
        assert len(set(found)) > 3


def test_what_weighs_nothing_is_left_out():
    noised, predicted = row(epoch(TrainingRows(of_lengths(300).histories(), LATER)), 0)
    assert len(noised) <= 10  # 0.5 ** 10 < 1e-3
    assert len(predicted) <= 20
    whole = DiffusionConfig(target="later", decay=0.5, cut_every=1000)  # by intervals: all of it
    noised, predicted = row(epoch(TrainingRows(of_lengths(300).histories(), whole)), 0)
    assert len(predicted) == 300


def test_an_epoch_is_the_same_for_the_same_generator_in_any_order():
    rows = TrainingRows(synthetic(30, 40, seed=2).histories(), LATER)
    order = np.random.default_rng(0).permutation(len(rows))
    plain, shuffled, other = epoch(rows), epoch(rows, order=order), epoch(rows, seed=1)
    for place, i in enumerate(order):
        assert row(shuffled, place) == row(plain, i)
    assert any(row(other, i) != row(plain, i) for i in range(len(rows)))


def test_users_with_a_single_record_have_nothing_later():
    with pytest.raises(DataError, match="two training records"):
        TrainingRows(of_lengths(1, 1).histories(), LATER)
    assert len(TrainingRows(of_lengths(1, 1).histories(), DiffusionConfig())) == 2


def test_the_mask_drops_the_share_of_its_step():
    settings = {"noise": "mask", "likelihood": "multinomial", "dropout": 0.8, "steps": 4}
    model = DiffRec(hidden=(3,), time_embedding=2, weighting="none", device="cpu", **settings)
    data = of_lengths(*[400] * 8)
    model.denoiser = model._new_denoiser(data.n_items)
    task = model.training_task(data)
    block = epoch(task.rows)
    steps = torch.arange(8) % 4
    # Of a table of ones the projection counts what is left.
    torch.nn.init.ones_(model.denoiser.item_in)
    left = task._first_layer(block, steps, {})[:, 0] / 400
    torch.testing.assert_close(left, 1 - 0.2 * (steps + 1.0), atol=0.08, rtol=0)


def test_a_masked_epoch_is_repeated_bit_for_bit_and_another_is_another():
    data = synthetic(60, 40, seed=3)
    settings = {"noise": "mask", "likelihood": "multinomial", "target": "later", "epochs": 2}
    models = [
        DiffRec(hidden=(8,), device="cpu", seed=seed, **settings).fit(data, progress=False)
        for seed in (1, 1, 2)
    ]
    first, again, other = (model.denoiser.item_out for model in models)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
