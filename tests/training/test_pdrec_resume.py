"""A training killed in the middle of an epoch and started again ends as if never killed."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

EPOCHS = 6

TRAINING = """
import functools, os, signal, sys
import torch
from pdrec_fast.data import leave_one_out, synthetic
from pdrec_fast.preferences import Preferences
from pdrec_fast.training import PDRec, config
from pdrec_fast.training.task import PDRecTask

out, checkpoint, die_at_step = sys.argv[1], sys.argv[2] or None, int(sys.argv[3])
table_optimizer = sys.argv[4]
torch.set_num_threads(1)
config.LoopConfig = functools.partial(config.LoopConfig, checkpoint_seconds=0.0)


class TableScorer:
    table = torch.randn(80, 300, generator=torch.Generator().manual_seed(0))

    def scores(self, histories, items=None):
        return self.table[torch.from_numpy(histories.users)]


steps, compute = 0, PDRecTask.batch_loss


def counted(self, batch):
    global steps
    if steps == die_at_step:
        os.kill(os.getpid(), signal.SIGKILL)
    steps += 1
    return compute(self, batch)


PDRecTask.batch_loss = counted
split = leave_one_out(synthetic(80, 300, seed=2))
scorer = TableScorer()
preferences = Preferences.infer(scorer, split.train, top_m=6, n_draws=16, progress=False)
model = PDRec(
    "sasrec",
    epochs=EPOCHS,
    batch_size=32,
    lr=0.02,
    seed=3,
    dpa_start=2,
    table_optimizer=table_optimizer,
    device="cpu",
    encoder_options={"width": 8, "heads": 2, "max_length": 12, "dropout": 0.3},
)
model.fit(split, preferences, checkpoint=checkpoint, progress=False)
model.save(out)
print(steps)
""".replace("EPOCHS", str(EPOCHS))


def training(
    out: Path, checkpoint: Path | str, table_optimizer: str, die_at_step: int = -1
) -> "subprocess.Popen[str]":
    arguments = [str(out), str(checkpoint), str(die_at_step), table_optimizer]
    return subprocess.Popen(
        [sys.executable, "-c", TRAINING, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=out.parent,
    )


def steps_of(process: "subprocess.Popen[str]") -> int:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return int(output)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
@pytest.mark.parametrize("table_optimizer", ["dense", "rows"])
def test_killed_and_resumed_is_bit_equal_to_uninterrupted(
    tmp_path: Path, table_optimizer: str
) -> None:
    straight = training(tmp_path / "straight", "", table_optimizer)
    checkpoint = tmp_path / "checkpoint"
    # Of 3 steps an epoch.
    killed = training(tmp_path / "resumed", checkpoint, table_optimizer, die_at_step=10)
    _, errors = killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL, errors
    assert not (tmp_path / "resumed").exists()
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    assert len(manifest["meta"]["history"]["losses"]) == 3

    assert steps_of(training(tmp_path / "resumed", checkpoint, table_optimizer)) == 3 * (EPOCHS - 3)
    assert steps_of(straight) == 3 * EPOCHS

    files = [load_file(tmp_path / name / "weights.safetensors") for name in ("straight", "resumed")]
    assert files[0].keys() == files[1].keys()
    for name in files[0]:
        # Bytes, not values: -0.0 and 0.0 would pass as equal.
        assert files[0][name].numpy().tobytes() == files[1][name].numpy().tobytes(), name
    histories = []
    for name in ("straight", "resumed"):
        meta = json.loads((tmp_path / name / "manifest.json").read_text())["meta"]
        histories.append({key: meta["history"][key] for key in ("losses", "validations")})
    assert histories[0] == histories[1]
