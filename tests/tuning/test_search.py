"""Searches on a small data set."""

import csv
import sys
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import event

import pdrec_fast as pf
from pdrec_fast.errors import CheckpointError, NonFiniteLossError, WriteError
from pdrec_fast.evaluation import Evaluator
from pdrec_fast.fitting.history import History
from pdrec_fast.settings import value_of, with_settings
from pdrec_fast.tuning import proposals, tune
from pdrec_fast.tuning.proposals import Pruned, Study
from pdrec_fast.tuning.search import without_test
from pdrec_fast.tuning.space import Choice, Range

optuna = pytest.importorskip("optuna", reason="searching needs the extra 'tune'")


@pytest.fixture(scope="module")
def diffusion(data):
    split = pf.leave_one_out(data)
    return pf.DiffRec(hidden=(16,), epochs=1, lr=1e-3).fit(split, progress=False)


@pytest.fixture
def fits(monkeypatch):
    """The runs of ``PDRec.fit``: (configuration, preferences, epochs it trained)."""
    seen = []
    original = pf.PDRec.fit

    def fit(self, split, preferences=None, *, on_epoch_end=None, **options):
        trained = []

        def counted(history):
            trained.append(history.epochs)
            if on_epoch_end is not None:
                on_epoch_end(history)

        seen.append((self.config, preferences, trained))
        return original(self, split, preferences, on_epoch_end=counted, **options)

    monkeypatch.setattr(pf.PDRec, "fit", fit)
    return seen


def test_the_first_trial_is_the_preset_and_the_best_is_what_a_run_reaches(
    data, search, tmp_path, fits
):
    wanted = search()
    result = tune(data, wanted, out=tmp_path / "out", progress=False)
    config = wanted.config()
    first = result.trials[0]
    assert first.settings == {key: value_of(config, key) for key in first.settings}
    assert fits[0][0] == config.pdrec
    assert [trial.state for trial in result.trials] == ["complete"] * 3
    assert result.best.value == max(trial.value for trial in result.trials)
    # As a user would run it, with the search's diffusion model.
    model = pf.DiffRec.load(tmp_path / "out" / "diffusion")
    best = with_settings(config, result.best.settings)
    again = pf.run(data, best, diffusion=model, progress=False)
    assert again.metrics["protocols"][result.protocol]["valid"]["ndcg@10"] == result.best.value
    assert again.metrics["epochs"]["encoder"]["best"] == result.best.best_epoch
    rows = list(csv.DictReader((tmp_path / "out" / "trials.csv").open()))
    assert [row["number"] for row in rows] == ["0", "1", "2"]
    assert float(rows[0]["pdrec.lr"]) == config.pdrec.lr
    assert not list((tmp_path / "out").glob("*.checkpoint"))


def test_proposals_differ_and_follow_the_seed(data, search, tmp_path):
    plain = search(modules=(), epochs=1)
    first = tune(data, plain, out=tmp_path / "a", progress=False).trials
    again = tune(data, plain, out=tmp_path / "b", progress=False).trials
    other = tune(data, replace(plain, seed=1), out=tmp_path / "c", progress=False).trials
    assert len({trial.settings["pdrec.lr"] for trial in first}) == 3
    assert [(t.settings, t.value) for t in again] == [(t.settings, t.value) for t in first]
    assert other[0].settings == first[0].settings
    assert other[1].settings != first[1].settings


def test_the_authors_own_settings_are_tried_second(data, search, tmp_path, diffusion):
    fixed = {"encoder.width": 8, "n_draws": 16}
    wanted = search(preset="toy", trials=2, epochs=1, fixed=fixed)
    trials = tune(data, wanted, out=tmp_path / "out", diffusion=diffusion, progress=False).trials
    assert trials[1].settings == trials[0].settings | {
        "pdrec.hbr_clip": 1.0,
        "pdrec.hbr_rescale": 4.0,
        "pdrec.dpa_weight": 0.05,
        "omega_m": 0.9,
    }


def test_given_settings_come_next_and_widen_the_space(data, search, tmp_path):
    first = ({"pdrec.lr": 0.05, "pdrec.loss": "softmax"}, {"pdrec.random_negatives": 3})
    wanted = search(modules=(), trials=3, epochs=1, first=first)
    trials = tune(data, wanted, out=tmp_path / "out", progress=False).trials
    assert trials[1].settings == trials[0].settings | first[0]
    assert trials[2].settings == trials[0].settings | first[1]
    with pytest.raises(CheckpointError, match="first"):
        tune(data, replace(wanted, first=()), out=tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match="omega_m: not searched"):
        tune(data, replace(wanted, first=({"omega_m": 0.5},)), out=tmp_path / "b", progress=False)


def test_the_test_split_is_never_looked_at(data, search, tmp_path, monkeypatch):
    looked = []
    ranks = Evaluator.ranks

    def watched(self, scorer, protocol="paper", on="valid"):
        looked.append((on, len(self.split.test)))
        return ranks(self, scorer, protocol, on)

    monkeypatch.setattr(Evaluator, "ranks", watched)
    tune(data, search(trials=1), out=tmp_path / "out", progress=False)
    assert set(looked) == {("valid", 0)}  # by the diffusion model and by the encoder


def test_without_its_test_a_split_is_the_same(data):
    split = pf.leave_one_out(data)
    blank = without_test(split)
    assert len(blank.test) == 0 < len(split.test)
    assert blank.train is split.train
    chosen, wanted = (Evaluator(part).negatives("valid") for part in (blank, split))
    np.testing.assert_array_equal(chosen, wanted)


def test_preferences_are_inferred_once_for_each_omega_with_the_largest_m(
    data, search, tmp_path, diffusion, fits, monkeypatch
):
    inferred = []
    infer = pf.Preferences.infer

    def counted(*arguments, top_m, omega_m, **options):
        inferred.append((omega_m, top_m))
        return infer(*arguments, top_m=top_m, omega_m=omega_m, **options)

    monkeypatch.setattr(pf.Preferences, "infer", counted)
    wanted = search(trials=8, epochs=1, fixed={"encoder.width": 8, "n_draws": 16})
    tune(data, wanted, out=tmp_path / "out", diffusion=diffusion, progress=False)
    omegas = [omega for omega, _ in inferred]
    assert len(omegas) == len(set(omegas)) > 1
    assert {m for _, m in inferred} == {100}
    used = {p.top_items.shape[1]: p for _, p, _ in fits}
    assert len(used) > 1
    for top_m, preferences in used.items():
        direct = infer(
            diffusion,
            pf.leave_one_out(data).train,
            top_m=top_m,
            omega_m=preferences.omega_m,
            n_draws=16,
            progress=False,
        )
        assert preferences.fingerprint() == direct.fingerprint()


@pytest.mark.parametrize("modules", [(), ("hbr", "dpa", "nns")])
def test_a_killed_search_goes_on_where_it_was(data, search, tmp_path, fits, modules, monkeypatch):
    wanted = search(modules=modules, epochs=3)
    whole = tune(data, wanted, out=tmp_path / "whole", progress=False)
    fits.clear()
    original = pf.PDRec.fit

    def killed(self, split, preferences=None, *, on_epoch_end=None, **options):
        def kill(history):
            on_epoch_end(history)
            if len(fits) == 2 and history.epochs == 2:
                raise KeyboardInterrupt

        return original(self, split, preferences, on_epoch_end=kill, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pf.PDRec, "fit", killed)
        with pytest.raises(KeyboardInterrupt):
            tune(data, wanted, out=tmp_path / "killed", progress=False)
    assert len(list(csv.DictReader((tmp_path / "killed" / "trials.csv").open()))) == 1
    fits.clear()
    resumed = tune(data, wanted, out=tmp_path / "killed", progress=False)
    # The second trial continues after its checkpoint of the first epoch; the first is not repeated.
    assert [trained for _, _, trained in fits] == [[1, 2, 3], [1, 2, 3]]
    for one, other in zip(resumed.trials, whole.trials, strict=True):
        assert replace(one, seconds=0.0) == replace(other, seconds=0.0)


def test_a_finished_search_is_not_repeated_and_takes_more_trials(data, search, tmp_path, fits):
    plain = search(modules=(), trials=2, epochs=1)
    first = tune(data, plain, out=tmp_path / "out", progress=False)
    again = tune(data, plain, out=tmp_path / "out", progress=False)
    assert again.trials == first.trials
    assert len(fits) == 2
    more = tune(data, replace(plain, trials=3), out=tmp_path / "out", progress=False)
    assert [*more.trials][:2] == [*first.trials]
    assert len(more.trials) == len(fits) == 3


def test_a_diverging_trial_is_kept_as_failed(data, search, tmp_path, monkeypatch):
    original = pf.PDRec.fit

    def fit(self, *arguments, **options):
        if self.config.lr == 0.002:  # the preset's
            raise NonFiniteLossError("the loss became nan")
        return original(self, *arguments, **options)

    monkeypatch.setattr(pf.PDRec, "fit", fit)
    plain = search(modules=(), trials=1, epochs=1)
    failed = tune(data, plain, out=tmp_path / "out", progress=False)
    assert (failed.trials[0].state, failed.trials[0].value) == ("failed", None)
    with pytest.raises(ValueError, match="none of 1 trials is complete"):
        failed.summary()
    result = tune(data, replace(plain, trials=3), out=tmp_path / "out", progress=False)
    assert result.best.number > 0
    assert result.summary()["before"] is None


def history(*values):
    made = History()
    for epoch, value in enumerate(values):
        made.losses.append(1.0)
        made.validations[str(epoch)] = value
        if value > made.best_value:
            made.best_value, made.best_epoch = value, epoch
    return made


def test_a_trial_behind_most_others_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(proposals, "_FIRST_PRUNED_EPOCH", 3)
    monkeypatch.setattr(proposals, "_FEWEST_OTHERS", 3)
    space = {"pdrec.lr": Range(0.1, 1.0), "pdrec.batch_size": Choice((1, 2))}
    study = Study(tmp_path / "trials.db", space, [], seed=0)
    for value in (0.1, 0.2, 0.3):
        proposal = study.propose()
        proposal.watch(history(0.0, 0.0, 0.0))  # too few others to compare with
        study.keep(proposal, "complete", history(value, value, value / 2))
    proposal = study.propose()
    proposal.watch(history(0.1))
    proposal.watch(history(0.1, 0.1))  # too early
    with pytest.raises(Pruned):
        proposal.watch(history(0.1, 0.1, 0.1))
    study.keep(proposal, "pruned", history(0.1, 0.1, 0.1))
    proposal = study.propose()
    proposal.watch(history(0.21, 0.1, 0.1, 0.1))  # its best so far counts
    study.close()
    reopened = Study(tmp_path / "trials.db", space, [], seed=0)
    assert [trial.state for trial in reopened.trials] == ["complete"] * 3 + ["pruned"]
    assert reopened.trials[3].value == 0.1
    assert (reopened.trials[3].best_epoch, reopened.trials[3].epochs) == (1, 3)
    assert reopened.propose().settings == proposal.settings
    reopened.close()


def test_pruning_ends_a_training(data, search, tmp_path, monkeypatch):
    def hopeless(self, history):
        if self.number == 1:
            raise Pruned

    monkeypatch.setattr(proposals.Proposal, "watch", hopeless)
    plain = search(modules=(), trials=2, epochs=3)
    trials = tune(data, plain, out=tmp_path / "out", progress=False).trials
    assert [(trial.state, trial.epochs) for trial in trials] == [("complete", 3), ("pruned", 1)]
    assert not list((tmp_path / "out").glob("*.checkpoint"))


def test_another_search_in_the_directory_is_refused(data, search, tmp_path):
    plain = search(modules=(), trials=1, epochs=1)
    tune(data, plain, out=tmp_path / "out", progress=False)
    with pytest.raises(CheckpointError, match=r"config.pdrec.epochs \(1 there, 2 here\)"):
        tune(data, replace(plain, epochs=2), out=tmp_path / "out", progress=False)
    fixed = plain.fixed | {"pdrec.lr": 0.002}
    with pytest.raises(CheckpointError, match=r"search with other space\.pdrec\.lr"):
        tune(data, replace(plain, fixed=fixed), out=tmp_path / "out", progress=False)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("precious")
    with pytest.raises(CheckpointError, match="exists and is no search"):
        tune(data, plain, out=tmp_path / "thesis", progress=False)


def test_a_damaged_storage_is_named(data, search, tmp_path):
    plain = search(modules=(), trials=1, epochs=1)
    tune(data, plain, out=tmp_path / "out", progress=False)
    (tmp_path / "out" / "trials.db").write_bytes(b"no database" * 999)
    with pytest.raises(CheckpointError, match=r"trials.db: damaged"):
        tune(data, plain, out=tmp_path / "out", progress=False)


def test_a_given_diffusion_model_must_fit(data, search, tmp_path, diffusion):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"diffusion\.\* cannot be fixed"):
        tune(data, search(), out=out, diffusion=diffusion, progress=False)
    fixed = {"n_draws": 16}
    with pytest.raises(ValueError, match="no module that would use it"):
        tune(data, search(modules=(), fixed=fixed), out=out, diffusion=diffusion, progress=False)
    other = pf.synthetic(n_users=60, n_items=260, seed=4)
    with pytest.raises(ValueError, match="other training interactions"):
        tune(other, search(fixed=fixed), out=out, diffusion=diffusion, progress=False)
    assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "toys"}, "preset='toys': begin with one of"),
        ({"encoder": "diffusion"}, "encoder='diffusion': choose one of"),
        ({"trials": 0}, "trials=0 must be at least 1"),
        ({"fixed": {"pdrec.seed": 3}}, "pdrec.seed cannot be fixed"),
        ({"fixed": {"evaluation_seed": 3}}, "evaluation_seed cannot be fixed"),
    ],
)
def test_wrong_searches_are_refused(search, changes, message):
    with pytest.raises(ValueError, match=message):
        search(**changes)


def test_without_optuna_the_extra_is_named_and_nothing_is_written(
    data, search, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"pip install 'pdrec_fast\[tune\]'"):
        tune(data, search(modules=()), out=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_optunas_own_messages_are_as_before(data, search, tmp_path):
    before = optuna.logging.get_verbosity()
    tune(data, search(modules=(), trials=1, epochs=1), out=tmp_path / "out", progress=False)
    assert optuna.logging.get_verbosity() == before


def test_a_full_storage_is_no_damaged_one(tmp_path):
    space = {"pdrec.lr": Range(0.1, 1.0)}
    with pytest.raises(WriteError, match=r"trials.db: cannot be written: unable to open"):
        Study(tmp_path / "nowhere" / "trials.db", space, [], seed=0)
    study = Study(tmp_path / "trials.db", space, [], seed=0)
    proposal, engine = study.propose(), study._storage.engine
    engine.dispose()
    event.listen(engine, "connect", lambda file, _: file.execute("PRAGMA max_page_count = 1"))
    with pytest.raises(WriteError, match=r"cannot be written: .* is full; make room"):
        study.keep(proposal, "complete", history(*range(3000)))
    study.close()
    again = Study(tmp_path / "trials.db", space, [], seed=0)
    assert again.propose().settings == proposal.settings
    again.close()
