"""Which trainings are told to be in trouble, and which are not."""

import logging
import math

import pytest
import torch

from pdrec_fast.fitting.loop import LoopConfig, run_loop
from pdrec_fast.fitting.validation import Validation


def validation(popularity=0.1, n_users=10_000, of_users=10_000):
    return Validation(n_users, of_users, popularity, "lower lr")


@pytest.mark.parametrize(
    ("figures", "kinds"),
    [
        ([0.01], set()),
        ([0.01, 0.01], set()),
        ([0.01, 0.01, 0.01], {"chance"}),
        ([0.02, 0.01, 0.01], {"chance"}),
        ([0.0, 0.0, 0.0], {"chance"}),
        ([0.01, 0.02, 0.03], set()),  # still rises
        ([0.01, 0.03, 0.02], {"chance"}),
        ([0.03, 0.06, 0.05], set()),  # half of popularity is passed
        ([0.2, 0.09], {"fell"}),
        ([0.2, 0.11], set()),
        ([0.04, 0.03, 0.015], {"chance", "fell"}),
    ],
)
def test_trouble_in_the_midst(figures, kinds):
    assert validation().trouble(figures).keys() == kinds


@pytest.mark.parametrize(
    ("figures", "kinds"),
    [([0.05, 0.04], {"below"}), ([0.099], {"level"}), ([0.1], set()), ([0.3, 0.0], set())],
)
def test_the_verdict_at_the_end(figures, kinds):
    assert validation().verdict(figures).keys() == kinds


def test_a_training_that_still_rose_is_told_to_go_on():
    assert "still rose: train for more epochs" in validation().verdict([0.04, 0.05])["below"]
    assert "more epochs" not in validation().verdict([0.05, 0.04])["below"]
    assert "lower lr" in validation().verdict([0.05, 0.04])["below"]


@pytest.mark.parametrize("n_users", [1, 5, 9])
def test_few_users_cause_no_warning(n_users):
    of_few = validation(n_users=n_users)
    assert of_few.trouble([0.0, 0.0, 0.0]) == {}
    assert of_few.verdict([0.0, 0.0]).keys() == {"level"}
    assert f"on {n_users} users" in of_few.verdict([0.0, 0.0])["level"]


def test_nothing_is_below_a_popularity_of_0():
    assert validation(popularity=0.0).trouble([0.0, 0.0, 0.0]) == {}
    assert validation(popularity=0.0).verdict([0.0]) == {}
    assert validation(popularity=1e-5).trouble([0.0, 0.0, 0.0]) == {}


def test_two_standard_errors_in_the_midst_and_one_at_the_end():
    def errors(n_users):
        return 0.1 / math.sqrt(0.1 / n_users)  # that 0 is below 0.1

    assert errors(9) < 1 < errors(11) < errors(39) < 2 < errors(41)
    told = [
        (len(of.trouble([0.0] * 3)), *of.verdict([0.0]))
        for of in (validation(n_users=n_users) for n_users in (9, 11, 39, 41))
    ]
    assert told == [(0, "level"), (0, "below"), (0, "below"), (1, "below")]


class Task:
    """Validation figures by a script."""

    def __init__(self, figures):
        self.figures, self.weight = figures, torch.zeros(1)

    def train_epoch(self, epoch):
        self.weight += 1
        return torch.ones(1)

    def validate(self):
        return self.figures[int(self.weight) - 1]

    def weights(self):
        return {"weight": self.weight}

    def load_weights(self, weights):
        self.weight.copy_(weights["weight"])

    def state(self):
        return {"nothing": torch.zeros(1)}

    def load_state(self, state):
        pass


def run(figures, checkpoint=None, stop_after=None, progress=False, **held_against):
    def stop(history):
        if history.epochs == stop_after:
            raise KeyboardInterrupt

    return run_loop(
        Task(figures),
        LoopConfig(len(figures), patience=99, checkpoint_seconds=0.0),
        name="toy",
        select_by="full",
        identity={},
        validation=validation(**held_against),
        checkpoint=checkpoint,
        progress=progress,
        on_epoch_end=stop,
    )


def test_each_kind_is_told_once_with_its_epoch(caplog):
    caplog.set_level(logging.INFO, "pdrec_fast")
    history = run([0.03, 0.02, 0.02, 0.01, 0.02, 0.01])
    assert history.remarks.keys() == {"chance", "fell", "below"}
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
    told = [record.getMessage() for record in caplog.records]
    assert [text.split(":")[0] for text in told] == [
        "toy, epoch 3",
        "toy, epoch 4",
        "toy, epoch 6",
    ]
    assert all("lower lr" in text for text in told)
    assert (history.popularity, history.validation_users, history.of_users) == (0.1, 10_000, 10_000)


def test_what_was_told_before_an_interruption_is_not_told_again(tmp_path, caplog):
    figures = [0.03, 0.02, 0.02, 0.01, 0.02, 0.01]
    whole = run(figures)
    for stop_after in (3, 5):
        with pytest.raises(KeyboardInterrupt):
            run(figures, tmp_path / "c", stop_after)
    caplog.clear()
    resumed = run(figures, tmp_path / "c")
    assert resumed.remarks == whole.remarks
    assert [record.getMessage()[:12] for record in caplog.records] == ["toy, epoch 6"]


def test_a_healthy_training_is_quiet(caplog):
    caplog.set_level(logging.INFO, "pdrec_fast")
    assert run([0.05, 0.15, 0.2, 0.18]).remarks == {}
    assert not caplog.records


def test_what_may_be_chance_is_no_warning(caplog):
    caplog.set_level(logging.INFO, "pdrec_fast")
    assert run([0.099, 0.097]).remarks.keys() == {"level"}
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_a_sample_is_said(caplog, capsys):
    caplog.set_level(logging.INFO, "pdrec_fast")
    run([0.2, 0.3], of_users=2_500_000, progress=True)
    assert "toy: validating on a fixed sample of 10000 of 2500000 users" in caplog.text
    assert "ndcg@10 (full, 10,000 of 2,500,000 users) 0.3" in capsys.readouterr().err
