"""How recommenders over interaction vectors are saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pdrec_fast.data import Interactions
from pdrec_fast.data.storage import interactions_to_tensors
from pdrec_fast.fitting.bundle import Contents, making, read_bundle, write_bundle
from pdrec_fast.recommending import Recommender

if TYPE_CHECKING:
    from typing_extensions import Self


class SavedRecommender(Recommender):
    """A recommender whose bundle has its ``contents`` and the interactions of its fit; as the guide
    of another model it is saved by its ``contents`` alone."""

    KIND: str
    data: Interactions | None

    def contents(self) -> Contents:
        """What the bundle of a model that this guides keeps of it: JSON values, and tensors by
        file."""
        raise NotImplementedError

    @classmethod
    def from_contents(
        cls, contents: Contents, path: str | Path, *, device: str | torch.device = "auto"
    ) -> Self:
        """The model of ``contents``; ``path`` is named in errors. See ``load``."""
        raise NotImplementedError

    def save(self, path: str | Path) -> None:
        """Write model and interactions to the directory ``path`` (see ``fitting.bundle``).

        Raises:
            CheckpointError: something other than a bundle lies at ``path``.
        """
        meta, files = self.contents()
        if self.data is not None:
            files["interactions"], meta["ids"] = interactions_to_tensors(self.data)
        write_bundle(path, self.KIND, meta, files)

    @classmethod
    def load(cls, path: str | Path, *, device: str | torch.device = "auto") -> Self:
        """Read a model written by ``save``, onto any device.

        Raises:
            CheckpointError: missing, damaged, or of another kind.
        """
        with making(path):
            return cls.from_contents(read_bundle(path, cls.KIND), path, device=device)
