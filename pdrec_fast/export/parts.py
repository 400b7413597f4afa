"""A model's scores as a sum of parts, each a traceable module on padded ids.

Parts that are products of a user vector and an item matrix become one product; the others, a
logarithm or an item-item matrix, give scores of all items.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pdrec_fast.data import Interactions
from pdrec_fast.diffusion import DiffRec
from pdrec_fast.diffusion.item_matrix import ItemMatrix
from pdrec_fast.errors import ExportError
from pdrec_fast.evaluation import Popularity, Scorer
from pdrec_fast.export.encoders import plain_encoder
from pdrec_fast.export.guides import DiffusionVectors, ItemItemScores
from pdrec_fast.export.padded import known_ids, remaining
from pdrec_fast.fusion import Fusion, Share


class Model(Protocol):
    """What export reads of a ``PDRec``."""

    config: Any
    data: Interactions | None
    history: Any
    trained_items: np.ndarray | None
    fusion: Fusion | None

    @property
    def name(self) -> str: ...

    @property
    def temperature(self) -> float: ...

    def known_items(self) -> np.ndarray | None: ...

    def fitted_encoder(self) -> Any: ...

    def scoring_table(self) -> torch.Tensor: ...


@dataclass
class Parts:
    """Scores = sum of ``module(ids) @ matrix.T`` over ``vectors`` + sum of ``scores``.

    Attributes:
        vectors: modules [B, L] -> [B, D_i], with their item matrices float32 [N, D_i].
        scores: modules [B, L] -> [B, N].
        hidden: bool [N], items whose score is -inf.
        blind: likewise, of guides that foresee no repeats, where ``fusion`` has levels for what
            they leave where it is.
        fusion: whose levels those are; None where there are none.
    """

    hidden: torch.Tensor
    vectors: list[tuple[nn.Module, torch.Tensor]] = field(default_factory=list)
    scores: list[nn.Module] = field(default_factory=list)
    blind: list[nn.Module] = field(default_factory=list)
    fusion: Fusion | None = None

    def add(self, other: Parts, weight: float, *, blind: bool = False) -> None:
        """Add ``weight`` times the other's scores."""
        if blind:
            self.blind.append(_Scaled(Scores(other), weight))
            return
        self.vectors += [(_Scaled(part, weight), matrix) for part, matrix in other.vectors]
        self.scores += [_Scaled(part, weight) for part in other.scores]
        self.hidden = self.hidden | other.hidden

    @property
    def matrix(self) -> torch.Tensor:
        """float32 [N, D], the joined item matrix."""
        return torch.cat([matrix for _, matrix in self.vectors], dim=1)

    @property
    def are_vectors(self) -> bool:
        """Whether the scores are products of vectors alone."""
        return not (self.scores or self.blind)

    @property
    def reads_times(self) -> bool:
        """Whether the scores depend on the times of the interactions."""
        modules = [module for module, _ in self.vectors] + self.scores + self.blind
        return any(getattr(m, "reads_times", False) for part in modules for m in part.modules())


class Vectors(nn.Module):
    """The joined user vectors of ``Parts``: float32 [B, D]."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.parts = nn.ModuleList(module for module, _ in parts.vectors)

    def forward(self, items: torch.Tensor, times: torch.Tensor | None = None) -> torch.Tensor:
        """For padded ids int64 [B, L] and their times float64 [B, L], where they are read."""
        return torch.cat([part(items, times) for part in self.parts], dim=1)


class Scores(nn.Module):
    """The scores of ``Parts``: float32 [B, N], -inf of hidden items."""

    matrix: torch.Tensor
    hidden: torch.Tensor

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.vectors = Vectors(parts) if parts.vectors else None
        self.others, self.blind = nn.ModuleList(parts.scores), nn.ModuleList(parts.blind)
        self.register_buffer("matrix", parts.matrix if parts.vectors else torch.zeros(0))
        self.register_buffer("hidden", parts.hidden)
        self.fusion = parts.fusion

    def forward(self, items: torch.Tensor, times: torch.Tensor | None = None) -> torch.Tensor:
        """See ``Vectors``."""
        found = [part(items, times) for part in self.others]
        if self.vectors is not None:
            found.append(F.linear(self.vectors(items, times), self.matrix))
        total = _sum(found)
        if self.fusion is not None:
            kept = self.fusion.of_history(total.gather(1, (items - 1).clamp_min(0)))
            total = _sum([total, *(part(items, times) for part in self.blind)])
            total = F.pad(total, (1, 0)).scatter(1, items, kept)[:, 1:]
        return total.masked_fill(self.hidden, -torch.inf)


def _sum(found: list[torch.Tensor]) -> torch.Tensor:
    total = found[0]
    for other in found[1:]:
        total = total + other
    return total


class Recommender(nn.Module):
    """Scores of all items, and the best of those that are recommended and not in the history.

    Args:
        recommended: bool [N], from which the best are taken.
        k: how many.
    """

    recommended: torch.Tensor

    def __init__(self, parts: Parts, recommended: torch.Tensor, k: int) -> None:
        super().__init__()
        self.scores, self.k = Scores(parts), k
        self.register_buffer("recommended", recommended)

    def forward(
        self, items: torch.Tensor, times: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(scores float32 [B, N], top_rows int64 [B, k], top_scores float32 [B, k])."""
        scores = self.scores(items, times)
        seen = torch.zeros(
            (items.shape[0], scores.shape[1] + 1), dtype=torch.bool, device=items.device
        )
        seen = seen.scatter(1, items, torch.ones_like(items, dtype=torch.bool))[:, 1:]
        left = scores.masked_fill(seen | ~self.recommended, -torch.inf)
        top_scores, top_rows = left.topk(self.k)
        return scores, top_rows, top_scores


class _Encoded(nn.Module):
    """An encoder's vectors as ``PDRec.scores`` multiplies them: 0 of a history without items."""

    known: torch.Tensor

    def __init__(self, plain: nn.Module, known: torch.Tensor, scale: float | None) -> None:
        super().__init__()
        self.plain, self.scale = plain, scale
        self.register_buffer("known", known)

    def forward(self, items: torch.Tensor, times: torch.Tensor | None) -> torch.Tensor:
        keep, back = remaining(items, self.known)
        states: torch.Tensor = self.plain(items, keep, back, times) * keep.any(1, keepdim=True)
        return states if self.scale is None else F.normalize(states, dim=-1) * self.scale


class _Constant(nn.Module):
    """A vector of one entry, 1, for scores that are the same for everybody."""

    def forward(self, items: torch.Tensor, times: torch.Tensor | None) -> torch.Tensor:
        return torch.ones((items.shape[0], 1), device=items.device)


class _Scaled(nn.Module):
    def __init__(self, part: nn.Module, weight: float) -> None:
        super().__init__()
        self.part, self.weight = part, weight

    def forward(self, items: torch.Tensor, times: torch.Tensor | None) -> torch.Tensor:
        scaled: torch.Tensor = self.part(items, times) * self.weight
        return scaled


class _Logarithm(nn.Module):
    """``Share.of`` the scores of parts."""

    def __init__(self, parts: Parts, floor: float) -> None:
        super().__init__()
        self.scores, self.floor = Scores(parts), floor

    def forward(self, items: torch.Tensor, times: torch.Tensor | None) -> torch.Tensor:
        return torch.log(self.scores(items, times).clamp_min(self.floor))


def model_parts(model: Model, *, fusion: bool = True) -> Parts:
    """The parts of a fitted model's scores, on the CPU.

    Args:
        fusion: with what the fusion adds.

    Raises:
        ExportError: a part cannot be traced; names it.
    """
    config, data = model.config, model.data
    assert data is not None
    encoder = deepcopy(model.fitted_encoder()).cpu().eval().requires_grad_(False)
    cosine = config.similarity == "cosine"
    known = known_ids(_trained(model) if config.skip_cold_items else None, data.n_items)
    plain = plain_encoder(encoder, model.name)
    encoded = _Encoded(plain, known, model.temperature if cosine else None)
    trained = None if config.rank_cold_items else _trained(model)
    parts = Parts(_nothing(data.n_items) if trained is None else ~trained)
    parts.vectors.append((encoded, model.scoring_table().detach().cpu().float().contiguous()))
    if model.fusion is not None and fusion:
        held_back = model.fusion.held_back
        parts.fusion = model.fusion if held_back else None
        for name, share in model.fusion.used.items():
            other = _share_parts(name, model.fusion.guides[name], share, data)
            parts.add(other, share.weight, blind=name in held_back)
    return parts


def _share_parts(name: str, guide: Scorer, share: Share, data: Interactions) -> Parts:
    """What a guide's share adds, without the weight."""
    if isinstance(guide, Popularity):
        scores = share.of(torch.from_numpy(guide.item_scores).float().clone())
        return Parts(_nothing(data.n_items), [(_Constant(), scores[:, None])])
    parts = _guide_parts(name, guide, data)
    if share.transform == "raw":
        # What a guide's own fusion does with the items of the history is no sum of parts.
        return parts if parts.fusion is None else Parts(parts.hidden, scores=[Scores(parts)])
    return Parts(_nothing(data.n_items), scores=[_Logarithm(parts, share.floor)])


def _guide_parts(name: str, guide: Any, data: Interactions) -> Parts:
    parts = Parts(_nothing(data.n_items))
    if isinstance(guide, ItemMatrix):
        parts.scores.append(ItemItemScores(guide))
    elif isinstance(guide, DiffRec):
        if not guide.has_user_vectors:
            raise ExportError(
                f"the guide {name!r} is a DiffRec whose reverse process runs over dense states "
                "(prediction='eps', sampling steps or noise, several hidden layers or normalised "
                "input): no traced program has it; export(fusion=False) writes the encoder alone"
            )
        trained = _trained(guide) if guide.config.skip_cold_items else None
        on_cpu = _on_cpu(guide)
        has_times = data.timestamps is not None
        part = DiffusionVectors(on_cpu, known_ids(trained, data.n_items), has_times)
        table, bias = on_cpu.item_vectors
        parts.vectors.append((part, torch.cat([table, bias[:, None]], dim=1)))
    elif callable(getattr(guide, "fitted_encoder", None)):
        return model_parts(guide)
    else:
        raise ExportError(
            f"the guide {name!r} is a {type(guide).__name__}, which no traced program has; "
            "export(fusion=False) writes the encoder alone"
        )
    return parts


def _on_cpu(guide: DiffRec) -> DiffRec:
    copied = DiffRec(guide.config, device="cpu")
    copied.denoiser = deepcopy(guide.fitted_denoiser()).cpu().requires_grad_(False)
    return copied


def _trained(model: Any) -> torch.Tensor | None:
    found = model.known_items()
    return None if found is None else torch.from_numpy(np.array(found))


def _nothing(n_items: int) -> torch.Tensor:
    return torch.zeros(n_items, dtype=torch.bool)


def described_shares(model: Model, fusion: bool) -> list[Mapping[str, Any]]:
    """For the card: the shares that an export has, and whether the vectors have them."""
    data = model.data
    if model.fusion is None or not fusion or data is None:
        return []
    found: list[Mapping[str, Any]] = []
    held_back = model.fusion.held_back
    for name, share in model.fusion.used.items():
        guide = model.fusion.guides[name]
        inside = name not in held_back and _share_parts(name, guide, share, data).are_vectors
        described = {"guide": name, "kind": type(guide).__name__, **asdict(share)}
        found.append(described | {"in_vectors": inside})
    return found
