"""A fusion's guides within the bundle of the model that they guide."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch

from pdrec_fast.errors import CheckpointError
from pdrec_fast.evaluation import Scorer
from pdrec_fast.fitting.bundle import Contents, Files
from pdrec_fast.fusion.fusion import Fusion, Share


class Saved(Protocol):
    """A kind of model that can be a part of another's bundle."""

    KIND: str

    def contents(self) -> Contents:
        """JSON values, and tensors by file."""
        ...

    @classmethod
    def from_contents(
        cls,
        contents: Contents,
        path: str | Path,
        *,
        device: str | torch.device,
    ) -> Scorer:
        """The model of ``contents``; ``path`` is named in errors."""
        ...


def fusion_contents(fusion: Fusion) -> Contents:
    """The shares, their levels, and every guide that has one.

    Raises:
        CheckpointError: such a guide is no model of this package.
    """
    guides: dict[str, Any] = {}
    files: Files = {}
    for name in fusion.used:
        guide: Any = fusion.guides[name]
        if not callable(getattr(guide, "contents", None)):
            raise CheckpointError(
                f"the guide {name!r} is a {type(guide).__name__}, which is no model of this "
                "package and cannot be saved with the one that it guides; set model.fusion = None, "
                "save both yourself, and after loading call model.fuse({...}, split)"
            )
        meta, theirs = guide.contents()
        if meta.get("own_encoder"):
            raise CheckpointError(
                f"the guide {name!r} has an encoder of your own and cannot be saved with the model "
                "that it guides; set model.fusion = None, save both yourself, and after loading "
                "call model.fuse({...}, split)"
            )
        guides[name] = {"kind": guide.KIND, "meta": meta}
        files |= {f"{name}.{file}": tensors for file, tensors in theirs.items()}
    shares = {name: asdict(share) for name, share in fusion.shares.items()}
    return {"shares": shares, "levels": fusion.levels, "guides": guides}, files


def fusion_from_contents(
    meta: Mapping[str, Any],
    files: Files,
    kinds: Iterable[type[Saved]],
    path: str | Path,
    device: str | torch.device,
) -> Fusion:
    """The fusion of ``fusion_contents``, whose guides are of ``kinds``.

    Raises:
        CheckpointError: a guide is of none of these kinds, or does not fit its own description.
    """
    classes = {kind.KIND: kind for kind in kinds}
    guides: dict[str, Scorer] = {}
    for name, guide in meta["guides"].items():
        if guide["kind"] not in classes:
            raise CheckpointError(
                f"{path}: the guide {name!r} is a {guide['kind']}, which this version cannot read"
            )
        theirs = {
            file.removeprefix(f"{name}."): tensors
            for file, tensors in files.items()
            if file.startswith(f"{name}.")
        }
        kind = classes[guide["kind"]]
        try:
            guides[name] = kind.from_contents((guide["meta"], theirs), path, device=device)
        except (TypeError, KeyError) as error:
            raise _unreadable(path, f"the guide {name!r}", error) from None
    try:
        shares = {name: Share(**share) for name, share in meta["shares"].items()}
        return Fusion(guides, shares, meta.get("levels", ()))  # which older ones have not
    except (TypeError, ValueError) as error:
        raise _unreadable(path, "the fusion", error) from None


def _unreadable(path: str | Path, what: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path}: {what} has values that this version cannot read ({error}); it was written by a "
        "newer one, or is damaged"
    )
