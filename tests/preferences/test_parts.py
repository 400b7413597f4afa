"""A damaged description of preferences in parts."""

import json

import pytest

import pdrec_fast as pf
from pdrec_fast.errors import CheckpointError


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda job: job.update(n_users=8), "parts of 12 users, not of 8"),
        (lambda job: job.pop("n_users"), r"cannot be put together .*KeyError: 'n_users'"),
        (lambda job: job.update(part_size="7"), r"job.json: damaged \(part_size is '7'\)"),
    ],
)
def test_a_description_that_does_not_fit_its_parts(tmp_path, change, words):
    data = pf.synthetic(n_users=12, n_items=10, seed=1)
    folder = tmp_path / "parts"
    sizes = {"top_m": 2, "n_draws": 4, "part_size": 7}
    pf.Preferences.infer_parts(pf.Popularity().fit(data), data, folder, progress=False, **sizes)
    job = json.loads((folder / "job.json").read_text())
    change(job)
    (folder / "job.json").write_text(json.dumps(job))
    with pytest.raises(CheckpointError, match=words):
        pf.Preferences.load(folder)
