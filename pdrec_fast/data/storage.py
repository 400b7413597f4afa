"""Interactions as tensors and JSON values, for saved models."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pdrec_fast.data.interactions import Interactions, read_only


def interactions_to_tensors(data: Interactions) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Arrays as tensors, and raw ids as JSON lists."""
    tensors = {
        name: torch.from_numpy(np.array(getattr(data, name)))
        for name in ("indptr", "items", "timestamps", "target_items", "item_features")
        if getattr(data, name) is not None
    }
    return tensors, {"user_ids": data.user_ids.tolist(), "item_ids": data.item_ids.tolist()}


def interactions_from_tensors(
    tensors: dict[str, torch.Tensor], ids: dict[str, Any]
) -> Interactions:
    """The inverse of ``interactions_to_tensors``."""
    arrays = read_only(**{name: tensor.numpy() for name, tensor in tensors.items()})
    return Interactions(
        indptr=arrays["indptr"],
        items=arrays["items"],
        timestamps=arrays.get("timestamps"),
        user_ids=id_array(ids["user_ids"]),
        item_ids=id_array(ids["item_ids"]),
        target_items=arrays.get("target_items"),
        item_features=arrays.get("item_features"),
    )


def id_array(values: list[Any]) -> np.ndarray:
    """Raw ids from a JSON list: int64, or str objects."""
    dtype = object if values and isinstance(values[0], str) else np.int64
    return np.array(values, dtype=dtype)
