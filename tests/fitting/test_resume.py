"""A run that is really killed and started again ends bit-equal to one never killed."""

import contextlib
import json
import subprocess
import sys

import pytest
import torch

from pdrec_fast.fitting.bundle import read_bundle
from pdrec_fast.fitting.loop import KIND

KILLED_IN_EPOCH = 5
TRAIN = """
import functools, sys, time
import torch
from pdrec_fast.data import leave_one_out, synthetic
from pdrec_fast.diffusion import DiffRec, config, task

checkpoint, out, stops = sys.argv[1], sys.argv[2], sys.argv[3] == "stops"
torch.set_num_threads(1)
config.LoopConfig = functools.partial(config.LoopConfig, checkpoint_seconds=0.0)
if stops:
    plain, calls = task.DiffusionTask.step_losses, []

    def waits_in_the_middle(self, block, steps, epoch):
        calls.append(epoch)
        if calls.count({epoch}) == 3:
            print("waiting", flush=True)
            time.sleep(600)
        return plain(self, block, steps, epoch)

    task.DiffusionTask.step_losses = waits_in_the_middle
split = leave_one_out(synthetic(n_users=200, n_items=300))
fast = {"hidden": (24,), "lr": 1e-2, "batch_size": 32, "epochs": 9, "patience": 9, "seed": 4}
model = DiffRec(**fast, **eval(sys.argv[4]), device="cpu")
model.fit(split, checkpoint=checkpoint, progress=False).save(out)
""".replace("{epoch}", str(KILLED_IN_EPOCH))


MASKED = {"likelihood": "multinomial", "noise": "mask", "target": "later", "cut_every": 4}


@pytest.fixture(scope="module", params=[{}, MASKED], ids=["gaussian", "masked"])
def folder(request, tmp_path_factory):
    """Models and checkpoints of an uninterrupted run, and of one killed and run again."""
    folder = tmp_path_factory.mktemp("resume")
    with contextlib.ExitStack() as stack:

        def start(name, mode):
            arguments = [str(folder / f"{name}.checkpoint"), str(folder / name), mode]
            arguments.append(repr(request.param))
            process = subprocess.Popen(
                [sys.executable, "-c", TRAIN, *arguments], stdout=subprocess.PIPE, text=True
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        killed, whole = start("resumed", "stops"), start("whole", "runs")
        assert killed.stdout.readline() == "waiting\n"
        killed.kill()
        assert killed.wait(60) < 0
        assert not (folder / "resumed").exists()
        meta, _ = read_bundle(folder / "resumed.checkpoint", KIND)
        assert len(meta["history"]["losses"]) == KILLED_IN_EPOCH
        resumed = start("resumed", "runs")
        assert resumed.wait(300) == 0
        assert whole.wait(300) == 0
    return folder


def test_final_weights_are_bit_equal(folder):
    _, whole = read_bundle(folder / "whole", "diffusion model")
    _, resumed = read_bundle(folder / "resumed", "diffusion model")
    assert whole["weights"].keys() == resumed["weights"].keys()
    for name, tensor in whole["weights"].items():
        assert torch.equal(tensor, resumed["weights"][name]), name


def test_history_and_optimizer_are_bit_equal_too(folder):
    whole_meta, whole = read_bundle(folder / "whole.checkpoint", KIND)
    resumed_meta, resumed = read_bundle(folder / "resumed.checkpoint", KIND)
    for meta in (whole_meta, resumed_meta):
        elapsed = meta["history"].pop("elapsed")
        assert 0 < elapsed[-1] == meta["history"].pop("seconds")
        assert len(elapsed) == len(meta["history"]["losses"])
    assert json.dumps(whole_meta) == json.dumps(resumed_meta)
    assert len(whole_meta["history"]["losses"]) > KILLED_IN_EPOCH
    for file in ("weights", "state", "best"):
        assert whole[file].keys() == resumed[file].keys()
        for name, tensor in whole[file].items():
            assert torch.equal(tensor, resumed[file][name]), name
