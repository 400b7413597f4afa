"""Adam's state as named tensors, so that checkpoints need no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import nn

Adam = TypeVar("Adam", torch.optim.Adam, torch.optim.AdamW)
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def with_state(optimizer: Adam) -> Adam:
    """Give every parameter its zero state now. Adam makes it at the first step, but a resumed run
    copies its state into it before."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    return optimizer


def optimizer_state(optimizer: Adam, module: nn.Module) -> dict[str, torch.Tensor]:
    """The state of every parameter of ``module`` under the parameter's name."""
    return {
        f"optimizer.{moment}.{name}": optimizer.state[parameter][moment]
        for name, parameter in module.named_parameters()
        for moment in _MOMENTS
    }


def load_optimizer_state(
    optimizer: Adam, module: nn.Module, state: Mapping[str, torch.Tensor]
) -> None:
    """Copy a state made by ``optimizer_state`` back in place."""
    for name, parameter in module.named_parameters():
        for moment in _MOMENTS:
            optimizer.state[parameter][moment].copy_(state[f"optimizer.{moment}.{name}"])
