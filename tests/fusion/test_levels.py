"""Where guides leave the items of a history: where the model puts them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import pdrec_fast as pf
from pdrec_fast.evaluation.scoring import CorpusCases
from pdrec_fast.fusion import Fusion, Share, choose_shares
from pdrec_fast.fusion.levels import with_levels

SPLIT = pf.leave_one_out(pf.synthetic(150, 140, seed=2))
N = SPLIT.data.n_items
LEVELS = ((4.0, 9.0), (1.0, 3.0), (1.0, 2.0), (-2.0, 0.0))


class Table:
    foresees_repeats = False

    def __init__(self, seed):
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(SPLIT.data.n_users, N, generator=generator)

    def scores(self, histories, items=None):
        rows = self.table[torch.from_numpy(histories.users)]
        return rows.clone() if items is None else rows.gather(1, items)


def in_history(histories):
    """bool [B, N], by a loop."""
    found = torch.zeros(len(histories), N, dtype=torch.bool)
    indptr, items, _ = histories.packed()
    for row in range(len(histories)):
        for item in items[indptr[row] : indptr[row + 1]]:
            found[row, item] = True
    return found


def test_levels_are_linear_between_two_and_go_on_beyond():
    fusion = Fusion({}, {}, LEVELS)
    logits = torch.tensor([5.0, 4.0, 2.5, 1.0, 0.0, -2.0, -9.0, -torch.inf])
    wanted = torch.tensor([10.0, 9.0, 6.0, 2.0, 4 / 3, 0.0, -7.0, -torch.inf])
    torch.testing.assert_close(fusion.of_history(logits), wanted)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (((1.0, 2.0),), "two or more"),
        (((1.0, 2.0), (0.0, float("nan"))), "finite"),
        (((0.0, 2.0), (1.0, 1.0)), "must not rise"),
    ],
)
def test_levels_that_are_none_are_refused(levels, message):
    with pytest.raises(ValueError, match=message):
        Fusion({}, {}, levels)


def test_the_history_follows_the_model_and_the_rest_the_guides():
    model, guides = Table(0), {"a": Table(1), "b": Table(2)}
    histories = SPLIT.test.histories[:9]
    fusion = Fusion(guides, {"a": Share(0.5), "b": Share(2.0)}, LEVELS)
    own, there = model.scores(histories), in_history(histories)
    assert there.any(1).all()
    added = own + 0.5 * guides["a"].scores(histories) + 2.0 * guides["b"].scores(histories)
    wanted = torch.where(there, fusion.of_history(own), added)
    torch.testing.assert_close(fusion.add_to(own.clone(), histories), wanted)
    # Some items alone, those of the histories among them.
    items = torch.stack([row.nonzero()[:2, 0] for row in there])
    items = torch.cat([items, torch.arange(5).repeat(9, 1)], dim=1)
    some = fusion.add_to(own.gather(1, items), histories, items)
    torch.testing.assert_close(some, wanted.gather(1, items))
    # A guide that foresees repeats has its say on them, and the other on the rest.
    guides["b"].foresees_repeats = True
    both = Fusion(guides, {"a": Share(0.5), "b": Share(2.0)}, LEVELS)
    base = own + 2.0 * guides["b"].scores(histories)
    wanted = torch.where(there, both.of_history(base), added)
    torch.testing.assert_close(both.add_to(own.clone(), histories), wanted)
    # Without a share nothing changes.
    without = Fusion(guides, {"a": Share(), "b": Share()}, LEVELS)
    assert torch.equal(without.add_to(own.clone(), histories), own)


def hinted(seed):
    table = Table(seed)
    for holdout in (SPLIT.valid, SPLIT.test):
        table.table[holdout.users, holdout.targets.astype(np.int64)] += 2.0
    return table


def again(holdout):
    """What would be held out had every user come back to the latest item."""
    indptr, items, _ = holdout.histories.packed()
    return items[indptr[1:] - 1]


@pytest.mark.parametrize("bias", [-4.0, 4.0])
def test_what_comes_again_keeps_its_place(bias):
    """Guides that put the history last, or first."""
    model, guide = hinted(0), hinted(1)
    histories = SPLIT.valid.histories
    guide.table[torch.from_numpy(histories.users)] += bias * in_history(histories)
    fusion = choose_shares(model, {"guide": guide}, SPLIT, progress=False)
    share = fusion.shares["guide"]
    assert share.weight > 0
    assert len(fusion.levels) > 8
    cases = CorpusCases(histories, again(SPLIT.valid))
    own = model.scores(histories)
    before = cases.ranks(own).greater
    moved = np.abs(cases.ranks(fusion.add_to(own.clone(), histories)).greater - before)
    lost = np.abs(cases.ranks(own + share.weight * guide.scores(histories)).greater - before)
    assert moved.mean() < 0.06 * N < 0.15 * N < lost.mean()


def test_targets_of_the_history_speak_for_no_share():
    """A guide that knows nothing but which item comes again, on validation."""
    valid = replace(SPLIT.valid, targets=again(SPLIT.valid))
    split = replace(SPLIT, valid=valid)
    model, guide = Table(0), Table(1)
    guide.table[valid.users, valid.targets.astype(np.int64)] += 5.0
    assert choose_shares(model, {"guide": guide}, split, progress=False).used == {}
    ranks = CorpusCases(valid.histories, valid.targets).ranks(guide.scores(valid.histories))
    assert np.median(ranks.greater) == 0


def test_a_guide_that_foresees_repeats_has_its_share_of_them():
    """Beside it one that does not: what comes again rises by the first alone."""
    valid = replace(SPLIT.valid, targets=again(SPLIT.valid))
    split = replace(SPLIT, valid=valid)
    model, guide, blind = Table(0), Table(1), hinted(2)
    guide.foresees_repeats = True
    guide.table[valid.users, valid.targets.astype(np.int64)] += 5.0
    guides = {"guide": guide, "blind": blind}
    fusion = choose_shares(model, guides, split, progress=False)
    assert set(fusion.used) == {"guide"}
    shares = {"guide": fusion.shares["guide"], "blind": Share(3.0)}
    fused = with_levels(Fusion(guides, shares), model, valid.histories, None)
    cases, own = CorpusCases(valid.histories, valid.targets), model.scores(valid.histories)
    ranks = cases.ranks(fused.add_to(own.clone(), valid.histories)).greater
    assert np.median(ranks) < 0.1 * np.median(cases.ranks(own).greater)


def test_levels_are_saved_with_the_model(tmp_path):
    options = {"width": 8, "max_length": 9}
    model = pf.PDRec("sasrec", modules=("fusion",), encoder_options=options, epochs=1)
    linear = pf.LinearDenoiser(ridge=5.0).fit(SPLIT)
    model.fit(SPLIT, guides={"linear": linear}, progress=False)
    model.fusion = Fusion({"linear": linear}, {"linear": Share(0.7, "log", 1e-3)}, LEVELS)
    model.save(tmp_path / "model")
    loaded = pf.PDRec.load(tmp_path / "model")
    assert loaded.fusion.shares == model.fusion.shares
    assert loaded.fusion.levels == LEVELS
    histories = SPLIT.test.histories[:9]
    torch.testing.assert_close(loaded.scores(histories), model.scores(histories))


def test_given_shares_get_levels_of_the_model_that_they_are_given_to():
    """A model that is trained on all records in the end, by the shares of the one selected."""
    options = {"width": 8, "max_length": 9}
    linear = pf.LinearDenoiser(ridge=5.0).fit(SPLIT.data)
    model = pf.PDRec("sasrec", modules=("fusion",), encoder_options=options, epochs=2)
    shares = {"linear": Share(3.0)}
    model.fit(SPLIT.data, guides={"linear": linear}, shares=shares, progress=False)
    assert len(model.fusion.levels) > 8
    histories = SPLIT.data.histories()
    cases = CorpusCases(histories, SPLIT.test.targets)  # of every history the latest item
    own = model.without_fusion().scores(histories)
    before = cases.ranks(own).greater
    moved = np.abs(cases.ranks(model.scores(histories)).greater - before)
    lost = np.abs(cases.ranks(own + 3.0 * linear.scores(histories)).greater - before)
    assert moved.mean() < 0.5 * lost.mean()


def test_scores_of_a_history_are_no_products():
    """What is made of vectors on a GPU, and on a CPU with very many items."""
    options = {"width": 8, "max_length": 9}
    guide, model = (
        pf.PDRec(name, modules=(), encoder_options=options, epochs=1).fit(SPLIT, progress=False)
        for name in ("gru4rec", "sasrec")
    )
    histories = SPLIT.test.histories[:9]
    for levels, foresees, products in (
        ((), False, True),
        (LEVELS, True, True),
        (LEVELS, False, False),
    ):
        guide.foresees_repeats = foresees
        model.fusion = Fusion({"a": guide}, {"a": Share(0.7)}, levels)
        table, offsets = model.item_vectors
        found = model.user_vectors(histories) @ table.T + offsets
        assert torch.allclose(found, model.scores(histories), atol=1e-5) is products
        assert model.has_user_vectors is products


def test_a_scorer_that_keeps_its_scores_in_float64_finds_them_unchanged():
    class Kept(Table):
        def scores(self, histories, items=None):
            if items is None and len(histories) == len(self.table):
                return self.table
            return super().scores(histories, items)

    model = Kept(0)
    model.table = model.table[:40].double()
    before = model.table.clone()
    with_levels(Fusion({"b": Table(1)}, {"b": Share(0.5)}), model, SPLIT.valid.histories[:40], None)
    assert torch.equal(model.table, before)


def test_people_of_whom_a_guide_knows_nothing_take_no_levels_from_the_others():
    guide = hinted(1)
    guide.table[::7] = -torch.inf
    fusion = choose_shares(hinted(0), {"guide": guide}, SPLIT, progress=False)
    assert fusion.shares["guide"].weight > 0
    assert len(fusion.levels) > 8
