"""The command ``warmup``: compiles kernels before the job that needs them."""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import asdict, replace
from typing import Annotated

import numpy as np
import torch
import typer

from pdrec_fast import options as opt
from pdrec_fast.build_info import triton_problem
from pdrec_fast.commands.kernel_caches import (
    Kernels,
    compile_numba,
    triton_binaries,
    triton_folder,
)
from pdrec_fast.data import Interactions
from pdrec_fast.devices import resolve_device
from pdrec_fast.encoders import ENCODERS
from pdrec_fast.pipeline import RunConfig, run
from pdrec_fast.presets import DEFAULT
from pdrec_fast.settings import parse_settings, with_settings

_LEAST_RECORDS = 5  # of a user: two are held out, and an epoch needs some


def warmup(
    items: Annotated[int, typer.Option(min=10, help="Number of items of the data.")],
    width: Annotated[
        int | None, typer.Option(min=1, help="Of the encoder; as --set encoder.width.")
    ] = None,
    preset: Annotated[
        str, typer.Option(callback=opt.known_preset, help="As of the runs to come.")
    ] = DEFAULT,
    encoder: Annotated[
        str, typer.Option(callback=opt.one_of(ENCODERS), help="As of the runs to come.")
    ] = "sasrec",
    modules: opt.ModulesOfPreset = None,
    settings: opt.Set = None,
    device: opt.Device = "auto",
    threads: opt.Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not lines.")] = False,
) -> None:
    """Compile the kernels that runs of these sizes will need, into NUMBA_CACHE_DIR and, on a GPU,
    TRITON_CACHE_DIR.

    One epoch is trained on made-up data with as many items, users for one batch, and the same
    settings; its models are thrown away. Kernels depend on the generation of the GPU and on sizes,
    never on the data. Without these variables the caches are those of the user.
    """
    opt.use_threads(threads)
    where = resolve_device(device)
    given = [*(settings or []), *([] if width is None else [f"encoder.width={width}"])]
    config = RunConfig.from_preset(
        preset, encoder=encoder, modules=None if modules is None else opt.modules_of(modules)
    )
    config = _one_epoch(with_settings(config, parse_settings(given)))
    kernels = {"numba": compile_numba()}
    problem = "there is no GPU" if where.type == "cpu" else triton_problem(where.type)
    if problem is None:
        kernels["triton"] = _compile_triton(config, items, where)
    if as_json:
        print(json.dumps({name: asdict(found) for name, found in kernels.items()}, default=str))
        return
    for name, found in kernels.items():
        kept = found.folder or "no cache, as none can be written: set NUMBA_CACHE_DIR"
        print(f"{name}: {found.kernels} kernels, {found.compiled} compiled now, in {kept}")
    if problem is not None:
        print(f"triton: nothing to compile: {problem}")


def _one_epoch(config: RunConfig) -> RunConfig:
    """The same kernels in the least time. A linear denoiser has none, and takes long to fit."""
    return replace(
        config,
        diffusion=replace(config.diffusion, epochs=1),
        pdrec=replace(config.pdrec, epochs=1),
        fusion_guides=tuple(name for name in config.fusion_guides if name != "linear"),
    )


def _compile_triton(config: RunConfig, n_items: int, device: torch.device) -> Kernels:
    """Train, test and recommend as a run does; count the kernels that its cache lacked."""
    before = triton_binaries()
    n_users = max(config.diffusion.batch_size, config.pdrec.batch_size)
    logger, level = logging.getLogger("pdrec_fast"), logging.getLogger("pdrec_fast").level
    logger.setLevel(logging.ERROR)  # that a model of one epoch learns little is no news
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            done = run(made_up(n_users, n_items), config, device=device, progress=False)
            assert done.model is not None  # the encoder is never "diffusion"
            done.model.recommend(k=10)
    finally:
        logger.setLevel(level)
    after = triton_binaries()
    return Kernels(len(after), len(after - before), triton_folder())


def made_up(n_users: int, n_items: int) -> Interactions:
    """Every item at least once, split evenly among the users, in order."""
    length = max(_LEAST_RECORDS, -(-n_items // n_users))
    records = np.arange(n_users * length)
    return Interactions.from_arrays(records // length, records % n_items, records)
