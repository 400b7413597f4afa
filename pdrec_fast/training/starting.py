"""What ``PDRec.fit`` does before the first epoch: checks of the guides, and a warm start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pdrec_fast.data import Interactions, Split
from pdrec_fast.evaluation import Scorer, checked_scores
from pdrec_fast.fitting.warm_start import (
    former_rows,
    rows_of_items,
    tell_dropped,
    warm_weights,
)
from pdrec_fast.fusion import Fusion, Share
from pdrec_fast.fusion.fusion import check_guide_name, check_trained_on, with_guides

if TYPE_CHECKING:
    from pdrec_fast.training.pdrec import PDRec


def start_from(
    former: Any, model: PDRec, encoder: Any, item_ids: np.ndarray, *, tell: bool = True
) -> None:
    """Give ``encoder``, a new one of ``model`` over ``item_ids``, the weights of ``former``.

    Args:
        tell: count the items that are gone in a warning.

    Raises:
        TypeError: that is no model of this kind.
        ValueError: it has other shapes, or no item in common.
    """
    if not isinstance(former, type(model)):
        raise TypeError(f"warm_start takes a fitted PDRec, got a {type(former).__name__}")
    fresh, weights = encoder.state_dict(), former.fitted_encoder().state_dict()
    assert former.data is not None
    rows = former_rows(item_ids, former.data.item_ids)
    if tell:
        tell_dropped(rows, former.data.n_items)
    other = weights
    if len(rows) == former.data.n_items:  # equal shapes tell nothing
        other = model.new_encoder(len(rows) + 1).state_dict()
    encoder.load_state_dict(warm_weights(fresh, weights, rows, rows_of_items(fresh, other)))


def check_guides(
    model: PDRec,
    train: Interactions,
    split: Split | None,
    guides: Mapping[str, Scorer] | None,
    shares: Mapping[str, Share] | None = None,
) -> None:
    """Find before the training what ``choose_shares`` would find after it.

    Raises:
        ValueError, TypeError: see ``PDRec.fit``.
    """
    modules = model.config.modules
    if "fusion" not in modules:
        if guides or shares is not None:
            raise ValueError(
                f"guides are for 'fusion', as shares are; it is not among the modules {modules}"
            )
        return
    if not isinstance(guides, Mapping) or not guides:
        raise ValueError(
            "the module 'fusion' needs guides by name: guides={'diffusion': diffusion}"
        )
    if split is None and shares is None:
        raise ValueError(
            "the module 'fusion' chooses its shares on validation: fit it on a Split, such as "
            "leave_one_out(interactions), or pass shares="
        )
    if shares is not None:
        if not (isinstance(shares, Mapping) and all(isinstance(s, Share) for s in shares.values())):
            raise TypeError(
                f"shares must be a mapping of names to Share, such as selected.fusion.shares, got "
                f"{shares!r}"
            )
        Fusion(guides, shares)  # finds names that are not among the guides
    histories = train.histories() if split is None else split.valid.histories
    for name, guide in guides.items():
        check_guide_name(name)
        if any(each is model for each in with_guides(guide)):
            raise ValueError(
                f"the guide {name!r} is the model that it is to guide, or is guided by it"
            )
        checked_scores(guide, histories[:1])
        check_trained_on(guide, train, f"the guide {name!r}")
