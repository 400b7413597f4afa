"""The paper's settings per data set, and one for data of your own.

PDRec's own parameters (ω_m, m, n, ω_d, ω_r, c_w, ω_f, learning rate, maximum length) are those of
the paper's "Parameter settings". Those of TI-DiffRec, the batch sizes, the decay of the rates and
the temperature are not in the paper: Toy's and Book's come from the authors' code. It has none
for Game and Music; they take those of the same source (Amazon: Toy, Douban: Book).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pdrec_fast.diffusion import DiffusionConfig
from pdrec_fast.training import PDRecConfig


@dataclass(frozen=True)
class Preset:
    """Settings of a whole run.

    Attributes:
        diffusion, pdrec: of the two models.
        top_m: m of DPA.
        omega_m: ω_m of NNS.
    """

    diffusion: DiffusionConfig
    pdrec: PDRecConfig
    top_m: int
    omega_m: float


_AMAZON_DIFFUSION = DiffusionConfig()
_DOUBAN_DIFFUSION = DiffusionConfig(hidden=(256,), time_embedding=8, noise_max=0.01, w_min=0.3)
_TOY = Preset(_AMAZON_DIFFUSION, PDRecConfig(), top_m=50, omega_m=0.5)
_BOOK = Preset(
    _DOUBAN_DIFFUSION,
    PDRecConfig(
        temperature=10.0, hbr_rank_weight=0.3, hbr_rescale=4.0, dpa_top_n=1, dpa_weight=0.01
    ),
    top_m=100,
    omega_m=0.8,
)

PRESETS: dict[str, Preset] = {
    "toy": _TOY,
    "game": replace(_TOY, pdrec=replace(_TOY.pdrec, hbr_clip=5.0, hbr_rescale=4.0)),
    "book": _BOOK,
    "music": replace(
        _BOOK, pdrec=replace(_BOOK.pdrec, hbr_rank_weight=0.1, hbr_clip=5.0, hbr_rescale=2.0)
    ),
    # Data the paper has not seen: a smaller denoiser that learns in tens of epochs, and modules at
    # a dose that did no harm to a healthy backbone on validation. The paper's doses did: HBR takes
    # nearly all weight from every user's least expected behaviour, and DPA's many soft positives
    # draw the last state to popular items.
    "none": Preset(
        DiffusionConfig(hidden=(200,), lr=1e-3, weight_decay=0.0, epochs=200),
        PDRecConfig(
            hbr_clip=0.3, hbr_rescale=3.33, dpa_top_n=1, dpa_weight=0.05, epochs=200, patience=10
        ),
        top_m=10,
        omega_m=0.5,
    ),
}
