"""Narrow item matrices beside the wide ones that are optimised."""

import pytest
import torch

from pdrec_fast.diffusion.denoiser import Denoiser
from pdrec_fast.diffusion.working_copy import WorkingCopy


@pytest.fixture
def original():
    torch.manual_seed(0)
    return Denoiser(13, (5,), 4)


def loss_of(denoiser):
    x = torch.ones(3, 13, dtype=denoiser.item_in.dtype)
    return denoiser(x, torch.tensor([0, 1, 2])).float().square().sum()


def test_the_own_dtype_needs_no_copy(original):
    working = WorkingCopy(original, torch.float32)
    assert working.denoiser is original
    loss_of(original).backward()
    before = original.item_in.grad.clone()
    working.load_weights()
    working.hand_over_gradients()
    assert torch.equal(original.item_in.grad, before)
    working.drop_gradients()
    assert original.item_in.grad is None


def test_only_the_item_matrices_are_narrow(original):
    working = WorkingCopy(original, torch.bfloat16)
    for name, parameter in working.denoiser.named_parameters():
        if name in ("item_in", "item_out"):
            assert parameter.dtype == torch.bfloat16
            assert torch.equal(parameter, getattr(original, name).bfloat16())
        else:
            assert parameter is original.get_parameter(name)
    assert original.item_in.dtype == torch.float32


def test_gradients_and_weights_travel(original):
    working = WorkingCopy(original, torch.bfloat16)
    loss_of(working.denoiser).backward()
    working.hand_over_gradients()
    for name in ("item_in", "item_out"):
        wide, narrow = getattr(original, name), getattr(working.denoiser, name)
        assert wide.grad.dtype == torch.float32
        assert torch.equal(wide.grad, narrow.grad.float())
        assert wide.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in original.parameters())
    torch.optim.SGD(original.parameters(), lr=0.1).step()
    assert not torch.equal(working.denoiser.item_out, original.item_out.bfloat16())
    working.load_weights()
    assert torch.equal(working.denoiser.item_out, original.item_out.bfloat16())


def test_a_second_step_reuses_memory_and_does_not_add_up(original):
    working = WorkingCopy(original, torch.bfloat16)
    places, gradients = [], []
    for _ in range(2):
        loss_of(working.denoiser).backward()
        working.hand_over_gradients()
        places.append(original.item_in.grad.data_ptr())
        gradients.append([parameter.grad.clone() for parameter in original.parameters()])
        working.drop_gradients()
        assert working.denoiser.item_in.grad is None
    assert places[0] == places[1]
    for first, second in zip(*gradients, strict=True):
        assert torch.equal(first, second)
