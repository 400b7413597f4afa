"""What the package writes to the terminal without being asked: nothing. Where a program has set up
no logging, Python itself shows the log's warnings."""

import subprocess
import sys

from tests.pipeline.conftest import FAST
from tests.test_pipeline import command

QUIET = f"""
import logging
import pdrec_fast as pf
assert all(type(h) is logging.NullHandler for h in logging.getLogger("pdrec_fast").handlers)
assert not logging.getLogger().handlers
logging.getLogger("pdrec_fast").addHandler(logging.NullHandler())  # no display of warnings
data = pf.synthetic(n_users=40, n_items=150, seed=0)
config = pf.with_settings(pf.RunConfig.from_preset("default"), {FAST!r})
result = pf.run(data, config, device="cpu", progress=False)
result.model.recommend(data.user_ids[:2], 3)
pf.evaluate(result.model, result.split)
pf.Preferences.infer(result.diffusion, result.split.train, n_draws=2, progress=False)
guides = {{"linear": pf.LinearDenoiser().fit(result.split)}}
result.model.fit(result.split, guides=guides, warm_start=result.model, progress=False)
"""


def test_import_and_api_print_nothing_without_progress():
    found = subprocess.run(
        [sys.executable, "-c", QUIET], capture_output=True, text=True, timeout=120
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_quiet_commands_show_results_and_warnings_alone(write_csv, data, tmp_path):
    out = tmp_path / "run"
    settings = [f"--set={key}={value}" for key, value in FAST.items()]
    run = ("run", "--data", write_csv(data), "--out", out, "--modules", "none", *settings)
    # A second time it resumes, which the log says unless it is quiet.
    for options in (["--quiet"], ["--quiet", "--log", "csv"]):
        found = command(*run, *options)
        assert found.returncode == 0, found.stderr
        assert "epoch/s" not in found.stderr
        assert "resuming" not in found.stderr
        assert "protocol: full" in found.stdout
    for shown in (["recommend", "--user", "u3", "-k", 2], ["evaluate"]):
        found = command(*shown, "--run", out, "--quiet")
        assert found.returncode == 0, found.stderr
        assert not found.stderr
        assert found.stdout
