"""What can guide an encoder in a run, by name. To add a guide is to add an entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from pdrec_fast.baselines import ItemKNN
from pdrec_fast.diffusion import Codigem, LatentDiffRec, LinearDenoiser
from pdrec_fast.encoders import ENCODERS
from pdrec_fast.evaluation import Popularity
from pdrec_fast.training import PDRec

if TYPE_CHECKING:
    from pdrec_fast.pipeline.configuration import RunConfig

# As an encoder's name: the diffusion model is the recommender; as a guide's: it guides the encoder.
DIFFUSION = "diffusion"
MULTINOMIAL = "multinomial"  # the same with the default preset's settings, whatever the preset
L_DIFFREC, LT_DIFFREC = "l-diffrec", "lt-diffrec"


@dataclass(frozen=True)
class GuideKind:
    """A scorer that a run trains to guide its encoder.

    Attributes:
        about: what it is, for ``--help``.
        model: its class, whose ``load`` reads what ``save`` wrote.
        new: the model of a run's settings, not yet fitted; takes the device and ``cuda_graphs``.
        in_epochs: whether ``fit`` takes a ``checkpoint`` and ``progress``; the others are solved or
            counted in one go.
    """

    about: str
    model: type[Any]
    new: Callable[[RunConfig, torch.device, bool], Any]
    in_epochs: bool = True


def new_encoder(config: RunConfig, device: torch.device, cuda_graphs: bool = False) -> PDRec:
    """The model that a run trains, not yet fitted."""
    return PDRec(
        config.encoder,
        config.pdrec,
        encoder_options=config.encoder_options,
        device=device,
        cuda_graphs=cuda_graphs,
    )


def _encoder(config: RunConfig, device: torch.device, cuda_graphs: bool) -> PDRec:
    return new_encoder(config.guide_config(), device, cuda_graphs)


def _latent(config: RunConfig, device: torch.device, _: bool) -> LatentDiffRec:
    settings = config.latent
    if config.guide == LT_DIFFREC and settings.weighting == "none":
        settings = replace(settings, weighting="rank")
    return LatentDiffRec(settings, device=device)


GUIDES: dict[str, GuideKind] = {
    **{name: GuideKind("an encoder trained without modules", PDRec, _encoder) for name in ENCODERS},
    "linear": GuideKind(
        "the linear denoiser",
        LinearDenoiser,
        lambda config, *_: LinearDenoiser(config.linear),
        in_epochs=False,
    ),
    "popularity": GuideKind(
        "numbers of records", Popularity, lambda *_: Popularity(), in_epochs=False
    ),
    "item-knn": GuideKind(
        "item neighbourhoods",
        ItemKNN,
        lambda config, *_: ItemKNN(config.item_knn),
        in_epochs=False,
    ),
    "codigem": GuideKind(
        "a network for every step of a diffusion",
        Codigem,
        lambda config, device, _: Codigem(config.codigem, device=device),
    ),
    L_DIFFREC: GuideKind("diffusion in a latent space", LatentDiffRec, _latent),
    LT_DIFFREC: GuideKind("the same, weighted by order", LatentDiffRec, _latent),
}
GUIDE_NAMES = (DIFFUSION, MULTINOMIAL, *GUIDES)
