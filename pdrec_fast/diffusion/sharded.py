"""A denoiser of whose items every process has its share: its parts, and its figures in training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pdrec_fast.data import Histories
from pdrec_fast.diffusion.config import DiffusionConfig
from pdrec_fast.diffusion.denoiser import ITEM_WEIGHTS, Denoiser
from pdrec_fast.diffusion.inputs import projected, scored_rows
from pdrec_fast.diffusion.reverse import HiddenChain
from pdrec_fast.diffusion.task import DiffusionTask
from pdrec_fast.ops.candidates.item_logits import item_logits
from pdrec_fast.ops.selection.project import project
from pdrec_fast.ranks import Mesh
from pdrec_fast.ranks.shards import RowShards

if TYPE_CHECKING:
    from pdrec_fast.diffusion.estimator import DiffRec


def check_shardable(config: DiffusionConfig) -> None:
    """Raise a ValueError where a step is no sum over items, so that they cannot be shared."""
    other = {"prediction": config.prediction != "x0", "normalize_input": config.normalize_input}
    if config.likelihood == "gaussian":  # scored by the chain of reverse steps
        other |= {
            "sampling_steps": config.sampling_steps != 0,
            "sampling_noise": config.sampling_noise,
            "hidden": len(config.hidden) != 1,
        }
    for name, is_other in other.items():
        if is_other:
            raise ValueError(
                f"{name}={getattr(config, name)!r} cannot be trained over shares of the items: "
                "choose a mesh with items=1"
            )


def share_of(denoiser: Denoiser, shards: RowShards) -> Denoiser:
    """A denoiser of this process's items alone, with the rows of ``denoiser``."""
    weights = shards.own(denoiser.state_dict())
    n_own = shards.rows.stop - shards.rows.start
    sizes = denoiser.hidden, denoiser.time_embedding, denoiser.normalize_input
    with torch.device("meta"):
        share = Denoiser(n_own, *sizes)
    share.load_state_dict(weights, assign=True)
    return share


def whole_denoiser(task: DiffusionTask) -> Denoiser:
    """The denoiser that the processes have trained; all of them must call it."""
    share = task.denoiser
    with torch.device("meta"):
        whole = Denoiser(task.shards.n_rows, share.hidden, share.time_embedding)
    weights = task.shards.whole(share.state_dict())
    whole.load_state_dict(weights, assign=True)
    return whole.to(task.device)


class ShardedScorer:
    """A ``DiffRec`` in training whose items are shared; scores are those of its own items.

    What sums over items goes through ``mesh.items``, so that its processes must score the same
    histories, one block after the other.

    Args:
        model: with the whole denoiser, of which a share is taken.

    Attributes:
        denoiser: of this process's items.
        item_shard: which those are, see ``evaluation.scoring``.
    """

    def __init__(self, model: DiffRec, mesh: Mesh) -> None:
        whole = model.fitted_denoiser()
        self.shards = RowShards(mesh.items, whole.n_items, ITEM_WEIGHTS)
        self.denoiser = share_of(whole, self.shards)
        self.device, self.items = model.device, mesh.items
        self.config, self.schedule = model.config, model.schedule
        self.catalogue, self.trained_items = model.catalogue, model.trained_items
        self._chain: HiddenChain | None = None

    @property
    def item_shard(self) -> slice:
        """The items of this process."""
        return self.shards.rows

    def weights_changed(self) -> None:
        """Forget what was derived from the denoiser's weights."""
        self._chain = None

    @torch.no_grad()
    def scores(self, histories: Histories, items: torch.Tensor | None = None) -> torch.Tensor:
        """Preferences for this process's items, float32 [B, n]; or for ``items`` [B, C], by all
        processes, [B, C]."""
        vectors, share = self.user_vectors(histories), self.denoiser
        if items is None:
            return project(vectors, share.item_out, share.item_bias)
        items, own = items.to(self.device), self.item_shard
        here = (items >= own.start) & (items < own.stop)
        places = torch.where(here, items - own.start, 0)
        found = item_logits(vectors, share.item_out, places, bias=share.item_bias)
        return self.items.sum_(found.masked_fill_(~here, 0.0))

    @torch.no_grad()
    def user_vectors(self, histories: Histories) -> torch.Tensor:
        """See ``DiffRec.user_vectors``: float32 [B, H], on all processes the same."""
        known = self.catalogue, self.trained_items, self.config
        rows, _ = scored_rows(histories, self.shards.n_rows, *known).of_items(self.item_shard)
        on_device = rows.to(self.device)
        first = self.items.sum_(
            projected(on_device, on_device.values, self.denoiser.item_in.detach())
        )
        if self.config.likelihood == "multinomial":
            step = torch.zeros(len(first), dtype=torch.int64, device=self.device)
            return self.denoiser.hidden_from(first, step)
        if self._chain is None:
            self._chain = self._whole_chain()
        return self._chain.run_from(first)

    def _whole_chain(self) -> HiddenChain:
        chain = HiddenChain.prepare(self.denoiser, self.schedule)
        self.items.sum_(chain.gram)
        self.items.sum_(chain.bias)
        return chain
