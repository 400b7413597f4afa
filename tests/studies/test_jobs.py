"""The grids of the paper's tables and figures."""

from dataclasses import replace

import pytest

import pdrec_fast as pf
from pdrec_fast.studies.job_process import job_config
from pdrec_fast.studies.jobs import WEIGHTINGS, Job, choose_encoders, list_jobs


def names(kind, data=("toy",), encoders=None, seeds=(0,)):
    return [job.name for job in list_jobs(kind, data, choose_encoders(kind, encoders), seeds)]


def test_main_is_table_1():
    assert names("main", encoders=["sasrec"]) == [
        "toy-ti-diffrec-0",
        "toy-diffrec-0",
        "toy-t-diffrec-0",
        "toy-sasrec-0",
        "toy-sasrec+hbr+nns+dpa-0",
    ]
    assert len(names("main", data=["toy", "book"], seeds=range(5))) == 2 * 5 * 9


def test_ablation_is_figure_4_and_each_module_alone():
    assert names("ablation") == [
        "toy-ti-diffrec-0",
        "toy-sasrec-0",
        "toy-sasrec+hbr-0",
        "toy-sasrec+hbr+nns-0",
        "toy-sasrec+hbr+nns+dpa-0",
        "toy-sasrec+dpa-0",
        "toy-sasrec+nns-0",
        "toy-sasrec+fusion-0",
        "toy-sasrec+hbr+nns+dpa-by-sasrec-0",
    ]


def test_universality_is_figure_5():
    found = names("universality")
    assert found[:3] == ["toy-ti-diffrec-0", "toy-gru4rec-0", "toy-gru4rec+hbr-0"]
    assert found[-1] == "toy-cl4srec+hbr+nns+dpa-0"
    assert len(found) == 9


def test_cross_domain_is_table_3():
    assert names("cross-domain", data=["game-to-toy"]) == [
        "game-to-toy-ti-diffrec-0",
        "game-to-toy-t-diffrec-0",
        "game-to-toy-sasrec-0",
        "game-to-toy-sasrec+hbr-0",
        "game-to-toy-sasrec+hbr+nns-0",
        "game-to-toy-sasrec+hbr+nns+dpa-0",
    ]


def test_a_seed_is_complete_before_the_next_begins():
    found = names("universality", data=["a", "b"], seeds=(0, 1))
    assert [name[-1] for name in found] == ["0"] * 18 + ["1"] * 18


def test_only_what_the_diffusion_guides_needs_it():
    needs = {job.name: job.needs for job in list_jobs("ablation", ["toy"], ["sasrec"], [3])}
    guide = Job("toy", "ti-diffrec", "none", "", 3)
    assert needs["toy-sasrec+nns-3"] == guide
    assert [name for name, job in needs.items() if job is None] == [
        "toy-ti-diffrec-3",
        "toy-sasrec-3",
        "toy-sasrec+fusion-3",  # by the preset's own
        "toy-sasrec+hbr+nns+dpa-by-sasrec-3",
    ]


@pytest.mark.parametrize("preset", ["default", "toy"])
def test_the_papers_names_mean_the_papers_models(preset):
    """Whatever the preset's own diffusion model, which a fusion takes."""
    own = pf.PRESETS[preset].diffusion
    jobs = [job for kind in ("main", "ablation") for job in list_jobs(kind, ["x"], ["sasrec"], [0])]
    for job in jobs:
        found = job_config(job, preset, ["diffusion.epochs=7"]).diffusion
        assert found.epochs == 7
        if job.modules == "fusion":
            assert found == replace(own, epochs=7)
        else:
            assert (found.likelihood, found.target, found.noise) == ("gaussian", "all", "gaussian")
            assert found.weighting == WEIGHTINGS.get(job.model, "interval")
            assert found.w_min > 0


@pytest.mark.parametrize(
    ("model", "weighting"),
    [("diffrec", "none"), ("t-diffrec", "rank"), ("ti-diffrec", "interval")],
)
def test_diffusion_models_differ_in_their_weighting(model, weighting):
    config = job_config(Job("toy", model, "none", "", 2), "toy", ["diffusion.steps=3"])
    assert (config.encoder, config.diffusion.weighting) == ("diffusion", weighting)
    assert (config.diffusion.seed, config.diffusion.steps) == (2, 3)


def test_a_job_is_the_run_of_its_preset():
    job = Job("x", "gru4rec", "hbr+nns", "ti-diffrec", 4)
    config = job_config(job, "book", ["pdrec.lr=0.5"])
    assert (config.encoder, config.guide, config.pdrec.modules) == (
        "gru4rec",
        "diffusion",
        ("hbr", "nns"),
    )
    assert (config.pdrec.seed, config.pdrec.lr, config.omega_m) == (4, 0.5, 0.8)
    other = job_config(Job("x", "sasrec", "hbr+nns+dpa", "sasrec", 0), "book", [])
    assert other.guide == "sasrec"


def test_unknown_kinds_and_encoders_are_named():
    with pytest.raises(ValueError, match="unknown study 'table1'; choose one of main, ablation"):
        choose_encoders("table1", None)
    with pytest.raises(ValueError, match="unknown encoder 'nobert'; choose among"):
        choose_encoders("main", ["nobert"])
