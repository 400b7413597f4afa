"""A denoiser whose item matrices work in a narrower dtype than the one they are optimised in."""

from __future__ import annotations

import copy

import torch
from torch import nn

from pdrec_fast.diffusion.denoiser import Denoiser


class WorkingCopy:
    """Narrow item matrices for the products, wide ones for the optimiser.

    A step is: ``load_weights``, the backward pass of a loss of ``denoiser``,
    ``hand_over_gradients``, the optimiser's step on the original, ``drop_gradients``. At N x H
    numbers, fresh memory costs about as much as the products, so the narrow matrices and the wide
    gradients are allocated once. Both denoisers share the other parameters, which are small.

    Args:
        original: holds the parameters that are optimised.
        dtype: of the products; where it is the parameters' own, ``denoiser`` is ``original``.
    """

    def __init__(self, original: Denoiser, dtype: torch.dtype) -> None:
        self.denoiser = original
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []  # wide, narrow
        matrices = [original.item_in, original.item_out]
        if matrices[0].dtype == dtype:
            return
        self._pairs = [(wide, nn.Parameter(wide.detach().to(dtype))) for wide in matrices]
        copies = {id(parameter): parameter for parameter in original.parameters()}
        copies |= {id(wide): narrow for wide, narrow in self._pairs}
        self.denoiser = copy.deepcopy(original, copies)

    @torch.no_grad()
    def load_weights(self) -> None:
        """Bring the narrow matrices up to date."""
        for wide, narrow in self._pairs:
            narrow.copy_(wide)

    @torch.no_grad()
    def hand_over_gradients(self) -> None:
        """Move the narrow matrices' gradients to the wide ones."""
        for wide, narrow in self._pairs:
            assert narrow.grad is not None
            if wide.grad is None:
                wide.grad = torch.empty_like(wide)
            wide.grad.copy_(narrow.grad)

    def drop_gradients(self) -> None:
        """Free the gradients of the step; the wide buffers, written anew each time, stay."""
        self.denoiser.zero_grad(set_to_none=True)
