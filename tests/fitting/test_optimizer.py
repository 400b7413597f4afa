"""Adam's state as named tensors: complete enough that a restored run takes the same steps."""

import pytest
import torch
from torch import nn

from pdrec_fast.fitting.optimizer import load_optimizer_state, optimizer_state, with_state


def make(optimizer_class, seed=0):
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = optimizer_class(module.parameters(), lr=0.05, weight_decay=0.1, fused=True)
    return module, optimizer


def take_steps(module, optimizer, numbers):
    for number in numbers:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("optimizer_class", [torch.optim.Adam, torch.optim.AdamW])
def test_zero_state_is_what_the_first_step_would_make(optimizer_class):
    lazy = make(optimizer_class)
    eager_module, eager_optimizer = make(optimizer_class)
    take_steps(*lazy, range(5))
    take_steps(eager_module, with_state(eager_optimizer), range(5))
    for a, b in zip(lazy[0].parameters(), eager_module.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("optimizer_class", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("before", [0, 1, 6])
def test_restored_state_continues_bit_equal(optimizer_class, before):
    module, optimizer = make(optimizer_class)
    with_state(optimizer)
    take_steps(module, optimizer, range(before))
    weights = {key: value.clone() for key, value in module.state_dict().items()}
    state = {key: value.clone() for key, value in optimizer_state(optimizer, module).items()}
    take_steps(module, optimizer, range(before, 9))

    other_module, other_optimizer = make(optimizer_class, seed=1)
    with_state(other_optimizer)
    take_steps(other_module, other_optimizer, range(20, 23))
    other_module.load_state_dict(weights)
    load_optimizer_state(other_optimizer, other_module, state)
    take_steps(other_module, other_optimizer, range(before, 9))
    for a, b in zip(module.parameters(), other_module.parameters(), strict=True):
        assert torch.equal(a, b)


def test_state_is_named_by_parameter():
    module, optimizer = make(torch.optim.Adam)
    with_state(optimizer)
    take_steps(module, optimizer, range(3))
    state = optimizer_state(optimizer, module)
    assert len(state) == 3 * len(list(module.parameters()))
    assert state["optimizer.step.0.weight"] == 3
    assert state["optimizer.exp_avg_sq.2.bias"].shape == (1,)
    assert state["optimizer.exp_avg.0.weight"].abs().sum() > 0
