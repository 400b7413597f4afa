"""The command ``warmup``: a second process, which may write nowhere else, compiles nothing anew."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pdrec_fast
import pdrec_fast.kernels
from pdrec_fast.pipeline import RunConfig
from pdrec_fast.settings import with_settings
from tests.test_pipeline import command

warmup = sys.modules["pdrec_fast.commands.warmup"]  # the name in the package is the function

SMALL = {
    "diffusion.hidden": 8,
    "diffusion.batch_size": 40,
    "pdrec.batch_size": 40,
    "encoder.width": 8,
}


def without_override():
    """Root too may write only where the bits of a file let it, from the next program on."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            assert libc.prctl(24, capability, 0, 0, 0) == 0  # PR_CAPBSET_DROP


@pytest.fixture
def installation(tmp_path):
    """A copy of the package that nobody can write to, as on a cluster's shared disk."""
    site = tmp_path / "site"
    package, kernels = (Path(each.__file__).parent for each in (pdrec_fast, pdrec_fast.kernels))
    ignored = shutil.ignore_patterns("__pycache__", "kernels")
    shutil.copytree(package, site / "pdrec_fast", ignore=ignored)
    shutil.copytree(kernels, site / "pdrec_fast" / "kernels", ignore=ignored)
    folders = [site, *(path for path in site.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    yield site
    for folder in folders:
        folder.chmod(0o755)


def warmed(installation, cache, *arguments):
    """What the command prints in a process whose only places to write are the caches."""
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from pdrec_fast.cli import main;"
        "import pdrec_fast; print(pdrec_fast.__file__, file=sys.stderr); main()"
    )
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(cache / "numba"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "HOME": "/nonexistent",
    }
    environment.pop("TRITON_INTERPRET", None)
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-c", code, str(installation), "warmup", "--json", *arguments],
        env=environment,
        cwd=cache.parent,
        capture_output=True,
        text=True,
        preexec_fn=without_override,
    )
    assert done.returncode == 0, done.stderr
    assert str(installation) in done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_read_only_installation_compiles_nothing_anew(installation, tmp_path):
    touch = ["touch", str(installation / "pdrec_fast" / "new")]
    assert subprocess.run(touch, capture_output=True, preexec_fn=without_override).returncode != 0
    given = ("--items", "300", *(f"--set={name}={value}" for name, value in SMALL.items()))
    first, second = (warmed(installation, tmp_path / "cache", *given) for _ in range(2))
    assert (first["numba"]["kernels"], first["numba"]["compiled"]) == (3, 3)
    assert first["numba"]["folder"].startswith(str(tmp_path / "cache" / "numba"))
    assert (second["numba"]["kernels"], second["numba"]["compiled"]) == (3, 0)
    assert ("triton" in first) == torch.cuda.is_available()
    if torch.cuda.is_available():
        assert first["triton"]["compiled"] > 0
        assert second["triton"]["compiled"] == 0
    assert not list(installation.rglob("__pycache__"))


def test_made_up_data_have_every_item():
    for n_users, n_items in ((40, 300), (300, 40)):
        data = warmup.made_up(n_users, n_items)
        assert (data.n_users, data.n_items) == (n_users, n_items)


@pytest.mark.parametrize("modules", [("fusion",), ("hbr", "dpa", "nns")])
def test_a_run_of_the_settings_is_made(modules):
    """On a CPU it compiles nothing for Triton; that it runs is what is tried."""
    config = with_settings(RunConfig.from_preset("default", modules=modules), SMALL)
    config = warmup._one_epoch(config)
    assert (config.diffusion.epochs, config.pdrec.epochs) == (1, 1)
    assert "linear" not in config.fusion_guides
    found = warmup._compile_triton(config, 60, torch.device("cpu"))
    assert found.compiled == 0


def test_it_says_why_there_is_nothing_to_compile():
    done = command("warmup", "--items", "300", "--device", "cpu")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "triton: nothing to compile: there is no GPU"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(("--width", "0"), "greater than or equal to 1"), (("--set", "pdrec.nothing=1"), "nothing")],
)
def test_what_cannot_be_set_is_refused(wrong, message):
    done = command("warmup", "--items", "300", *wrong)
    assert done.returncode != 0
    assert message in done.stderr
