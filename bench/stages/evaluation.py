"""Ranking every user's test item, under both protocols."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

import pdrec_fast as pf
from bench.data import TOY, source, split
from bench.padded import PaddedSASRec, padded_scores
from bench.registry import Case, Floor, Implementation, operation
from bench.stages.training_epoch import WIDTH, last_state_flops
from bench.target import COMPILED, compiled, target
from pdrec_fast.evaluation import PAPER_NEGATIVES, PROTOCOLS, Evaluator

BLOCK, PADDED_BLOCKS = 256, 2


def _make(users: int, items: int, protocol: str) -> Case:
    parts = split(users, items)
    device = target().device
    model = pf.PDRec("sasrec", modules=(), **target().model_options)
    model.encoder = model.new_encoder(items)
    evaluator = Evaluator(parts)
    cases, negatives = parts.test, evaluator.negatives("test")  # drawn once per training run

    def ranked(
        padded: Callable[..., torch.Tensor], block: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        histories = cases.histories[block]
        targets = torch.from_numpy(cases.targets[block].astype(np.int64))[:, None]
        targets = targets.to(device)
        if protocol == "paper":
            others = torch.from_numpy(negatives[block].astype(np.int64)).to(device)
            scores = padded(histories, torch.cat([targets, others], dim=1))
            target, others = scores[:, :1], scores[:, 1:]
        else:
            others = padded(histories, None)
            target = others.gather(1, targets)
            for row, (start, stop) in enumerate(
                zip(histories.starts, histories.stops, strict=True)
            ):
                others[row, histories.items[start:stop].tolist()] = -torch.inf
            others.scatter_(1, targets, -torch.inf)
        return (others > target).sum(dim=1), (others == target).sum(dim=1)

    def in_blocks(n_cases: int, compiling: bool) -> Callable[[], tuple[torch.Tensor, ...]]:
        encoder = PaddedSASRec(model.encoder).eval()
        padded = partial(padded_scores, compiled(encoder) if compiling else encoder, model.config)
        starts = range(0, n_cases, BLOCK)

        def run() -> tuple[torch.Tensor, ...]:
            counts = [ranked(padded, np.arange(s, min(s + BLOCK, n_cases))) for s in starts]
            return tuple(torch.cat(part) for part in zip(*counts, strict=True))

        return run

    def package():
        return partial(evaluator.ranks, model, protocol, "test")

    def package_ranks() -> tuple[np.ndarray, np.ndarray]:
        ranks = package()()
        return ranks.greater, ranks.equal

    n_timed = min(BLOCK * PADDED_BLOCKS, len(cases))
    lengths = np.minimum(cases.histories.lengths, model.encoder.max_length)
    candidates = items if protocol == "full" else 1 + PAPER_NEGATIVES
    scaled: dict[str, Any] = {
        "share": n_timed / len(cases),
        "note": f"{n_timed} of {len(cases)} cases, scaled",
    }
    rows = {
        "pdrec_fast": Implementation(package, package_ranks),
        "padded": Implementation(
            partial(in_blocks, n_timed, False), in_blocks(len(cases), False), **scaled
        ),
    }
    if target().gpu:
        rows[COMPILED] = Implementation(
            partial(in_blocks, n_timed, True), comparable=False, slow_start=True, **scaled
        )
    return Case(
        rows,
        reference="padded",
        floor=Floor(flops=last_state_flops(lengths) + 2 * WIDTH * candidates * len(cases)),
        atol=1,  # scores that differ by rounding may change places
        data=source(users, items),
    )


for _protocol in PROTOCOLS:
    operation(
        f"evaluation_{_protocol}",
        "stage",
        sizes={**TOY, "protocol": _protocol},
        gpu_sizes=({**TOY, "protocol": _protocol},),
        small={"users": 30, "items": 401, "protocol": _protocol},
    )(_make)
