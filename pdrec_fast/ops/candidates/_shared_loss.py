"""What ``shared_softmax`` and ``corpus_softmax`` share beside their driver (``_blocks``)."""

from __future__ import annotations

from typing import Any

import torch

from pdrec_fast.operands import Candidates
from pdrec_fast.ops.candidates._checks import implementations, item_indices
from pdrec_fast.ops.dispatch import choose


def chosen_for(name: str, impl: str, candidates: Candidates) -> tuple[str, Candidates]:
    """The implementation to run, and what it takes.

    Raises:
        ValueError: an item outside the table, where that is seen without waiting.
    """
    states, table, items = candidates
    chosen = choose(name, impl, implementations(states, table))
    if chosen == "reference":
        item_indices(items.cpu(), len(table))
        return chosen, candidates
    return chosen, Candidates(states.float(), table.float() if chosen == "cpp" else table, items)
