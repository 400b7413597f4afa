"""Shares of scorers in a model's logits, and how they are chosen."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import pdrec_fast as pf
from pdrec_fast.data import Holdout, leave_one_out, mix_domains, synthetic
from pdrec_fast.errors import CheckpointError, NonFiniteScoresError, NotFittedError
from pdrec_fast.evaluation import evaluate, scoring, validation_sample
from pdrec_fast.fusion import Fusion, Share, choose_shares

OPTIONS = {"width": 8, "max_length": 9}
FAST = {"epochs": 1, "select_by": "full"}


class Table:
    """Scores of users by items."""

    def __init__(self, table):
        self.table, self.asked = table, 0

    def scores(self, histories, items=None):
        self.asked += 1
        rows = self.table[torch.from_numpy(histories.users)]
        return rows if items is None else rows.gather(1, items)


class Fused:
    """A model with a fusion, as a scorer."""

    def __init__(self, model, fusion):
        self.model, self.fusion = model, fusion

    def scores(self, histories, items=None):
        return self.fusion.add_to(self.model.scores(histories, items).clone(), histories, items)


@pytest.fixture(scope="module")
def split():
    return leave_one_out(synthetic(150, 140, seed=2))


def noise(split, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(split.data.n_users, split.data.n_items, generator=generator)


def hints(split, strength, seed=0):
    """Noise, with the validation and test targets raised by ``strength``."""
    table = noise(split, seed)
    for holdout in (split.valid, split.test):
        table[holdout.users, holdout.targets.astype(np.int64)] += strength
    return table


def ndcg(scorer, split, protocol, on="valid"):
    found = evaluate(scorer, split, on=[on], protocols=[protocol])
    return found[protocol][on]["ndcg@10"]


def test_a_share_is_a_weighted_transform():
    scores = torch.tensor([[0.0, 1e-6, 0.5, 2.0]])
    assert torch.equal(Share(2.0).of(scores), scores)
    found = Share(2.0, "log", 1e-3).of(scores)
    torch.testing.assert_close(found, torch.tensor([[1e-3, 1e-3, 0.5, 2.0]]).log())
    assert scores[0, 0] == 0  # not overwritten
    with pytest.raises(ValueError, match="transform"):
        Share(1.0, "exp")
    with pytest.raises(ValueError, match="floor"):
        Share(1.0, "log", 0.0)
    with pytest.raises(ValueError, match="finite"):
        Share(float("nan"))


def test_logits_take_every_share(split):
    a, b, c = (Table(noise(split, seed)) for seed in range(3))
    fusion = Fusion(
        {"a": a, "b": b, "c": c}, {"a": Share(0.5), "b": Share(2.0, "log"), "c": Share()}
    )
    histories = split.valid.histories[:7]
    logits = torch.ones(7, split.data.n_items)
    rows = torch.from_numpy(histories.users)
    wanted = 1 + 0.5 * a.table[rows] + 2 * b.table[rows].clamp_min(1e-4).log()
    torch.testing.assert_close(fusion.add_to(logits, histories), wanted)
    items = torch.tensor([[3, 5]] * 7)
    torch.testing.assert_close(fusion.add_to(torch.ones(7, 2), histories, items), wanted[:, [3, 5]])
    assert c.asked == 0, "a scorer without a share was asked"
    with pytest.raises(ValueError, match="unknown guides"):
        Fusion({"a": a}, {"b": Share(1.0)})
    assert Fusion({"a": a}, {"b": Share()}).used == {}
    for name in ("", "a.b", "../a", "a/b", 3):
        with pytest.raises(ValueError, match="letters, digits and underscores"):
            Fusion({name: a}, {})


@pytest.mark.parametrize("select_by", ["paper", "full", "both"])
def test_what_knows_something_gets_a_share_and_noise_gets_none(split, select_by):
    model = Table(hints(split, 1.0))
    guides = {"noise": Table(noise(split, 5)), "hints": Table(torch.exp(hints(split, 2.0, 9)))}
    fusion = choose_shares(model, guides, split, select_by=select_by, progress=False)
    assert set(fusion.used) == {"hints"}
    assert fusion.shares["noise"] == Share()

    protocols = ("paper", "full") if select_by == "both" else (select_by,)
    for protocol in protocols:
        for on in ("valid", "test"):
            plain = ndcg(model, split, protocol, on)
            assert ndcg(Fused(model, fusion), split, protocol, on) > 1.3 * plain


def test_the_share_is_the_best_of_those_tried(split, monkeypatch):
    """Every value, evaluated one by one."""
    from pdrec_fast.fusion import search

    model, guide = Table(hints(split, 1.0)), Table(hints(split, 1.5, 4).exp())
    tried = []
    original = search._Search._values

    def spy(self, name, others):
        tried.extend(original(self, name, others))
        return tried

    monkeypatch.setattr(search._Search, "_values", spy)
    fusion = choose_shares(model, {"g": guide}, split, progress=False, least_gain=0.0)
    base = {protocol: ndcg(model, split, protocol) for protocol in ("paper", "full")}

    def worth(share):
        fused = Fused(model, Fusion({"g": guide}, {"g": share}))
        return min(ndcg(fused, split, protocol) / base[protocol] for protocol in base)

    values = [worth(share) for share in tried]
    assert len(tried) == 36
    assert worth(fusion.shares["g"]) == pytest.approx(max(values), rel=1e-9)


def test_shares_that_a_later_round_takes_away_are_kept_where_they_are_worth_more(
    split, monkeypatch
):
    from pdrec_fast.fusion import search

    model = Table(hints(split, 1.0))
    guides = {"a": Table(hints(split, 1.5, 4)), "b": Table(hints(split, 1.5, 5))}
    monkeypatch.setattr(search, "_ROUNDS", 1)
    expected = choose_shares(model, guides, split, progress=False).shares
    assert all(share.weight for share in expected.values())

    monkeypatch.setattr(search, "_ROUNDS", 3)
    original, worths = search._Search.step, []

    def doubtful(self, name, shares):
        self.least_gain = 1.0 if len(worths) < 2 else 1e9
        after, worth = original(self, name, shares)
        worths.append(worth)
        return after, worth

    monkeypatch.setattr(search._Search, "step", doubtful)
    fusion = choose_shares(model, guides, split, progress=False)
    assert worths[3] == 0, "nothing was left at the end"
    assert fusion.shares == expected
    gains = [
        ndcg(Fused(model, fusion), split, protocol) / ndcg(model, split, protocol) - 1
        for protocol in ("paper", "full")
    ]
    assert worths[1] == pytest.approx(min(gains) + sum(gains) / 2, rel=1e-9)
    assert worths[1] == max(worths)


def test_a_gain_within_its_error_is_no_gain(split):
    model, guide = Table(hints(split, 1.0)), Table(hints(split, 0.7, 4))
    taken = choose_shares(model, {"g": guide}, split, least_gain=0.0, progress=False)
    assert taken.used
    left = choose_shares(model, {"g": guide}, split, least_gain=50.0, progress=False)
    assert not left.used


def test_noise_seldom_gets_a_share(split):
    """30 guides that know nothing; the best of 36 values gains something with most of them."""
    model = Table(hints(split, 1.0))
    taken = 0
    for seed in range(100, 130):
        guide = Table(noise(split, seed))
        taken += bool(choose_shares(model, {"g": guide}, split, progress=False).used)
    assert taken <= 4


def test_few_cases_choose_nothing(split):
    few = validation_sample(split, 29, seed=0)
    oracle = Table(hints(split, 50.0))
    model = Table(noise(split, 1))
    assert not choose_shares(model, {"g": oracle}, few, progress=False).used
    enough = validation_sample(split, 30, seed=0)
    assert choose_shares(model, {"g": oracle}, enough, progress=False).used


def test_weights_do_not_depend_on_which_users_come_first(split, monkeypatch):
    """The first users' logits are a thousandth of the others', in a block of their own."""
    table = hints(split, 1.0)
    table[split.valid.users[:60]] *= 1e-3
    guide = Table(hints(split, 2.0, 3))
    shares = []
    for block in (60, 1000):
        monkeypatch.setattr(scoring, "_CASES_PER_BLOCK", block)
        shares.append(choose_shares(Table(table), {"g": guide}, split, progress=False).shares["g"])
    assert shares[0] == shares[1]
    assert shares[0].weight > 0.05


def test_a_guide_that_says_the_same_of_everything_gets_no_share(split):
    flat = Table(torch.full((split.data.n_users, split.data.n_items), 0.3))
    assert not choose_shares(Table(hints(split, 1.0)), {"g": flat}, split, progress=False).used


@pytest.mark.parametrize("where", [0, -1])
def test_scores_that_are_nan_are_refused(split, where):
    table = hints(split, 1.0, 3)
    table[split.valid.users[where]] = float("nan")
    with pytest.raises(NonFiniteScoresError):
        choose_shares(Table(hints(split, 1.0)), {"g": Table(table)}, split, progress=False)


def test_an_item_left_out_by_a_guide_changes_little(split):
    table = hints(split, 2.0, 3)
    share = choose_shares(
        Table(hints(split, 1.0)), {"g": Table(table)}, split, progress=False
    ).shares["g"]
    table = table.clone()
    table[:, 5] = -float("inf")
    with_out = choose_shares(
        Table(hints(split, 1.0)), {"g": Table(table)}, split, progress=False
    ).shares["g"]
    assert with_out.transform == share.transform
    assert with_out.weight == pytest.approx(share.weight, rel=0.3)


def test_few_items_leave_the_full_ranking_alone():
    small = leave_one_out(synthetic(60, 40, seed=0))
    model = Table(hints(small, 1.0))
    fusion = choose_shares(model, {"g": Table(hints(small, 2.0, 3))}, small, progress=False)
    assert fusion.used


def test_two_domains_rank_the_target_alone():
    mixed = mix_domains(synthetic(80, 130, seed=0), synthetic(80, 60, seed=1))
    both = leave_one_out(mixed)
    source = torch.from_numpy(~both.data.target_items)
    model = hints(both, 1.0)
    model[:, source] += 50  # would fill every list if it counted
    fusion = choose_shares(
        Table(model), {"g": Table(hints(both, 2.0, 3))}, both, select_by="full", progress=False
    )
    assert fusion.used


def test_bad_arguments(split):
    with pytest.raises(ValueError, match="select_by"):
        choose_shares(Table(noise(split, 0)), {}, split, select_by="half", progress=False)


# In a model.


@pytest.fixture(scope="module")
def guides(split):
    diffusion = pf.DiffRec(hidden=(16,), epochs=3, lr=1e-2).fit(split, progress=False)
    linear = pf.LinearDenoiser(ridge=5.0).fit(split.train)
    return {"diffusion": diffusion, "linear": linear, "popularity": pf.Popularity(split.train)}


def fitted(split, guides, **settings):
    model = pf.PDRec("sasrec", modules=("fusion",), encoder_options=OPTIONS, epochs=2, **settings)
    return model.fit(split, guides=guides, progress=False)


def test_a_fused_model_scores_recommends_and_is_stored(split, guides, tmp_path):
    model = fitted(split, guides, rank_cold_items=False)
    assert model.name == "sasrec+fusion"
    model.fusion = Fusion(
        guides,
        {
            "diffusion": Share(0.5, "log"),
            "linear": Share(3.0),
            "popularity": Share(0.1, "log", 1.0),
        },
    )
    plain = pf.PDRec("sasrec", modules=(), encoder_options=OPTIONS, epochs=2, rank_cold_items=False)
    plain.fit(split, progress=False)
    histories = split.test.histories[:9]
    alone = model.without_fusion()
    assert torch.equal(alone.scores(histories), plain.scores(histories))
    assert model.fusion is not None  # still
    wanted = model.fusion.add_to(plain.scores(histories).clone(), histories)
    for scorer in (model, model.prepared()):
        torch.testing.assert_close(scorer.scores(histories), wanted)
    items = torch.tensor([[2, 11]] * 9)
    torch.testing.assert_close(model.scores(histories, items), wanted[:, [2, 11]])
    users = split.data.user_ids[:5]
    recommended = model.recommend(users, 3)
    model.save(tmp_path / "m")
    loaded = pf.PDRec.load(tmp_path / "m")
    assert loaded.fusion.shares == model.fusion.shares
    assert torch.equal(loaded.scores(histories), model.scores(histories))
    again = loaded.recommend(users, 3)
    np.testing.assert_array_equal(again[0], recommended[0])
    assert not np.array_equal(plain.recommend(users, 3)[1], recommended[1])


def test_guides_without_a_share_are_not_stored(split, guides, tmp_path):
    model = fitted(split, guides)
    mine = guides | {"mine": Table(noise(split, 0))}
    model.fusion = Fusion(mine, {"linear": Share(1.0), "mine": Share()})
    model.save(tmp_path / "m")
    loaded = pf.PDRec.load(tmp_path / "m")
    assert list(loaded.fusion.guides) == ["linear"]
    assert loaded.fusion.shares == model.fusion.shares  # as before, those of 0 too
    model.fusion = Fusion(mine, {"mine": Share(1.0)})
    with pytest.raises(CheckpointError, match=r"'mine' is a Table.*model\.fuse"):
        model.save(tmp_path / "n")


def test_a_fused_encoder_can_guide_another(split, guides, tmp_path):
    inner = fitted(split, {"linear": guides["linear"]})
    inner.fusion = Fusion({"linear": guides["linear"]}, {"linear": Share(1.0)})
    outer = fitted(split, {"inner": inner})
    outer.fusion = Fusion({"inner": inner}, {"inner": Share(2.0)})
    outer.save(tmp_path / "m")
    histories = split.test.histories[:4]
    loaded = pf.PDRec.load(tmp_path / "m")
    assert torch.equal(loaded.scores(histories), outer.scores(histories))


def test_an_encoder_of_your_own_is_no_stored_guide(split, guides, tmp_path):
    own = pf.PDRec(lambda n_items: pf.SASRec(n_items, width=8, max_length=9), modules=(), epochs=1)
    own.fit(split, progress=False)
    model = fitted(split, guides)
    model.fusion = Fusion({"own": own}, {"own": Share(1.0)})
    with pytest.raises(CheckpointError, match="encoder of your own"):
        model.save(tmp_path / "m")


def test_a_failed_choice_keeps_the_former_one(split, guides):
    model = fitted(split, guides)
    before = model.fusion
    bad = noise(split, 0)
    bad[split.valid.users[-1]] = float("nan")
    with pytest.raises(NonFiniteScoresError):
        model.fuse({"bad": Table(bad)}, split, progress=False)
    assert model.fusion is before
    with pytest.raises(ValueError, match="the model that it is to guide"):
        model.fuse({"me": model}, split, progress=False)
    plain = pf.PDRec("sasrec", modules=(), encoder_options=OPTIONS, epochs=1)
    plain.fit(split, progress=False)
    with pytest.raises(ValueError, match="not among the modules"):
        plain.fuse(guides, split)


def test_shares_are_chosen_after_the_training(split, guides):
    model = fitted(split, guides, fusion_select_by="full")
    alone = pf.PDRec("sasrec", modules=(), encoder_options=OPTIONS, epochs=2)
    alone.fit(split, progress=False)
    assert model.history.losses == alone.history.losses
    assert ndcg(model, split, "full") >= ndcg(alone, split, "full")
    before = model.fusion.shares
    assert model.fuse(guides, split, progress=False).fusion.shares == before
    model.fit(split, guides={"popularity": guides["popularity"]}, progress=False)
    assert set(model.fusion.shares) == {"popularity"}


def test_a_fusion_needs_guides_and_a_split(split, guides):
    model = pf.PDRec("sasrec", modules=("fusion",), encoder_options=OPTIONS)
    for nothing in (None, {}, [pf.Popularity(split.train)]):
        with pytest.raises(ValueError, match="needs guides by name"):
            model.fit(split, guides=nothing)
    with pytest.raises(ValueError, match=r"guide 'a\.b': a name has letters"):
        model.fit(split, guides={"a.b": guides["popularity"]})
    with pytest.raises(ValueError, match="could hold the answers"):
        model.fit(split, guides={"all": pf.Popularity(split.data)})
    with pytest.raises(NotFittedError):
        model.fit(split, guides={"fresh": pf.LinearDenoiser()})
    with pytest.raises(ValueError, match=r"returned shape \(1, 5\)"):
        model.fit(split, guides={"narrow": Table(torch.zeros(split.data.n_users, 5))})
    with pytest.raises(ValueError, match=r"unknown guides \['other'\]"):
        model.fit(split, guides=guides, shares={"other": Share(1.0)})
    for none in ({"popularity": 1.0}, Fusion(guides, {})):
        with pytest.raises(TypeError, match="must be a mapping of names to Share"):
            model.fit(split, guides=guides, shares=none)
    assert model.encoder is None, "it was trained before its guides were looked at"
    with pytest.raises(ValueError, match="chooses its shares on validation"):
        model.fit(split.train, guides=guides)
    with pytest.raises(ValueError, match="guides are for 'fusion'"):
        pf.PDRec("sasrec", modules=()).fit(split, guides=guides)


def test_neither_protocol_is_sold_for_the_other():
    """A guide that lifts every target above most items, and a few items above the target."""
    many = leave_one_out(synthetic(200, 2000, seed=2))
    base = hints(many, 2.5)
    lifted = hints(many, 1.0) - noise(many, 0)
    crowd = torch.rand(base.shape, generator=torch.Generator().manual_seed(1)) < 0.01
    guide = Table(torch.where(crowd, 4.0, lifted))
    model = Table(base)

    def gains(fusion):
        fused = Fused(model, fusion)
        found = [(ndcg(fused, many, p), ndcg(model, many, p)) for p in ("paper", "full")]
        return [with_guide / alone - 1 for with_guide, alone in found]

    trade = gains(Fusion({"g": guide}, {"g": Share(1.0)}))
    assert trade[0] > 0 > trade[1], "this guide would tempt nobody"
    fusion = choose_shares(model, {"g": guide}, many, least_gain=0.0, progress=False)
    assert min(gains(fusion)) >= 0


# --- what cannot be fused, and what is told ------------------------------------------------------


def test_a_model_of_other_training_data_is_not_fused(split, guides):
    """Its logits could hold the answers of the validation, like a guide's."""
    model = pf.PDRec("sasrec", modules=("fusion",), encoder_options=OPTIONS, **FAST)
    model.fit(split, guides=guides, progress=False)
    other = replace(split, train=split.data)
    with pytest.raises(ValueError, match="this model was fitted on other"):
        model.fuse({"all": pf.Popularity(split.data)}, other, progress=False)
    with pytest.raises(ValueError, match="the model was fitted on other"):
        pf.choose_shares(pf.Popularity(split.data), guides, split)
    with pytest.raises(ValueError, match="guide 'all' was fitted on other"):
        pf.choose_shares(model, {"all": pf.Popularity(split.data)}, split)


def test_two_models_do_not_guide_each_other(split, guides):
    first, second = (
        pf.PDRec("sasrec", modules=("fusion",), encoder_options=OPTIONS, seed=seed, **FAST).fit(
            split, guides=guides, progress=False
        )
        for seed in (0, 1)
    )
    first.fusion = pf.Fusion({"second": second}, {"second": pf.Share(1.0)})
    with pytest.raises(ValueError, match="is guided by it"):
        second.fuse({"first": first}, split, progress=False)


@pytest.mark.parametrize("name", ["1st", "a.b", "", "x" * 65, 3])
def test_names_that_files_cannot_have(name):
    with pytest.raises(ValueError, match="begins with no digit"):
        pf.Fusion({name: None}, {})


@pytest.mark.parametrize("value", [-torch.inf, torch.inf, 1e-42])
def test_scores_without_a_spread_get_no_share(split, value):
    scores = torch.full((split.data.n_users, split.data.n_items), value)
    scores[:, ::2] *= 0.5
    fusion = pf.choose_shares(
        pf.Popularity(split.train), {"odd": Table(scores)}, split, progress=False
    )
    assert fusion.shares["odd"].weight == 0


def test_a_model_that_says_the_same_of_everything_takes_no_share(split):
    """Not even of a guide that leaves items out: a weight of 0 times infinity is no number."""
    table = hints(split, 3.0)
    table[:, ::5] = -torch.inf
    alike = Table(torch.zeros_like(table))
    fusion = pf.choose_shares(alike, {"guide": Table(table)}, split, progress=False)
    assert fusion.shares["guide"].weight == 0


def test_integer_logits_can_be_guided(split, guides):
    class Counts(pf.Popularity):
        def scores(self, histories, items=None):
            return super().scores(histories, items).long().contiguous()

    fusion = pf.choose_shares(Counts(split.train), guides, split, progress=False)
    assert set(fusion.shares) == set(guides)


def test_too_few_cases_are_told(split, guides, caplog):
    few = replace(split, valid=Holdout(split.valid.histories[:9], split.valid.targets[:9]))
    fusion = pf.choose_shares(pf.Popularity(split.train), guides, few, progress=False)
    assert all(share.weight == 0 for share in fusion.shares.values())
    assert "9 validation cases are too few" in caplog.text


def test_a_fusion_of_a_newer_version_says_so(split, guides, tmp_path):
    model = pf.PDRec("sasrec", modules=("fusion",), encoder_options=OPTIONS, **FAST)
    model.fit(split, guides=guides, progress=False)
    model.fusion = pf.Fusion(guides, {name: pf.Share(1.0) for name in guides})
    meta, files = model.contents()
    name = next(iter(meta["fusion"]["shares"]))
    meta["fusion"]["shares"][name]["curve"] = 2
    with pytest.raises(CheckpointError, match="newer one"):
        pf.PDRec.from_contents((meta, files), tmp_path)
