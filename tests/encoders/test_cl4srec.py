"""CL4SRec: InfoNCE against loops, the mask's embedding, and what the contrastive loss reaches."""

import math

import numpy as np
import pytest
import torch

from pdrec_fast.data.sequences import PackedSequences, packed_tokens
from pdrec_fast.encoders import CL4SRec, ContrastiveEncoder, SASRec
from pdrec_fast.encoders.cl4srec import info_nce
from tests import rows

N_ITEMS, WIDTH, MAX_LENGTH = 40, 6, 9


def packed(lengths: tuple[int, ...], seed: int = 11) -> PackedSequences:
    return rows.packed(rows.random_rows(lengths, N_ITEMS), N_ITEMS, MAX_LENGTH, seed=seed)


def cl4srec(**options) -> CL4SRec:
    torch.manual_seed(0)
    model = CL4SRec(N_ITEMS, width=WIDTH, max_length=MAX_LENGTH, **options).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def info_nce_in_loops(first: torch.Tensor, second: torch.Tensor, temperature: float) -> float:
    n, losses = len(first), []
    for anchors, others in ((first, second), (second, first)):
        for row in range(n):
            positive = math.exp(float(anchors[row] @ others[row]) / temperature)
            negatives = 0.0
            for other in range(n):
                if other != row:
                    negatives += math.exp(float(anchors[row] @ others[other]) / temperature)
                    negatives += math.exp(float(anchors[row] @ anchors[other]) / temperature)
            losses.append(-math.log(positive / (positive + negatives)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_info_nce_is_that_of_the_loops(n: int, temperature: float) -> None:
    first, second = torch.randn(2, n, 5, dtype=torch.float64, generator=torch.Generator())
    found = float(info_nce(first, second, temperature))
    assert found == pytest.approx(info_nce_in_loops(first, second, temperature), rel=1e-10)


def test_info_nce_by_hand() -> None:
    """Two users whose views agree, and are at right angles to the other's."""
    views = torch.eye(2, dtype=torch.float64)
    assert float(info_nce(views, views, 1.0)) == pytest.approx(math.log(1 + 2 / math.e))
    assert float(info_nce(views[:1], views[:1], 1.0)) == 0.0


def test_gradients_of_info_nce() -> None:
    views = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: info_nce(x[0], x[1], 0.7), views)


def test_the_loss_is_of_the_last_states_of_both_views() -> None:
    model, batch = cl4srec(contrast_weight=0.2, temperature=0.5).eval(), packed((5, 1, 9, 3))
    views = model.augment(batch)
    table = torch.cat([model.item_embedding.weight, model.mask_embedding[None]]).detach()
    with_mask = SASRec(N_ITEMS + 1, width=WIDTH, max_length=MAX_LENGTH).double().eval()
    weights = {name: t for name, t in model.state_dict().items() if name != "mask_embedding"}
    with_mask.load_state_dict(weights | {"item_embedding.weight": table})
    last = {}
    for view, items in enumerate(views.items.split(views.lengths.tolist())):
        length = np.array([len(items)])
        alone = packed_tokens(items.numpy(), length, MAX_LENGTH, np.array([0]), None)
        last[int(views.sources[view])] = with_mask(alone)[-1].detach()
    assert (views.items == N_ITEMS).any()
    first, second = (torch.stack([last[row + at] for row in range(4)]) for at in (0, 4))
    expected = 0.2 * info_nce_in_loops(first, second, 0.5)
    assert model.auxiliary_loss(views).item() == pytest.approx(expected, rel=1e-8)


def test_gradients_of_the_loss_reach_every_parameter_and_item() -> None:
    model, batch = cl4srec(dropout=0.0), packed((5, 1, 9, 3))
    views = model.augment(batch)
    model.auxiliary_loss(views).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.any(), name
    touched = model.item_embedding.weight.grad.any(dim=1).nonzero().flatten().tolist()
    assert touched == sorted(set(views.items.tolist()) - {N_ITEMS})

    class Loss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.of = model

        def forward(self) -> torch.Tensor:
            return model.auxiliary_loss(views)

    def of_mask(mask_embedding: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(Loss(), {"of.mask_embedding": mask_embedding}, ())

    assert torch.autograd.gradcheck(of_mask, model.mask_embedding)


def test_it_recommends_as_sasrec_does() -> None:
    model, batch = cl4srec().eval(), packed((5, 1, 9))
    plain = SASRec(N_ITEMS, width=WIDTH, max_length=MAX_LENGTH).double().eval()
    weights = model.state_dict()
    del weights["mask_embedding"]
    plain.load_state_dict(weights)
    assert torch.equal(model(batch), plain(batch))


def test_the_table_has_items_alone() -> None:
    model = CL4SRec(3000)
    assert model.item_embedding.num_embeddings == 3000
    ratio = model.mask_embedding.std() / model.item_embedding.weight.std()
    assert 0.7 < ratio.item() < 1.4
    assert isinstance(model, ContrastiveEncoder)
    assert not isinstance(SASRec(5), ContrastiveEncoder)


def test_dropout_makes_views_of_one_sequence_differ() -> None:
    model = cl4srec(dropout=0.5, crop=1.0, mask=0.0, reorder=0.0)
    batch = packed((6, 4))
    views = model.augment(batch)
    assert sorted(views.items.tolist()) == sorted(batch.items.tolist() * 2)
    with_dropout = model.auxiliary_loss(views).item()
    assert with_dropout == model.auxiliary_loss(views).item()
    assert with_dropout != pytest.approx(model.eval().auxiliary_loss(views).item(), rel=1e-3)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"contrast_weight": -0.1}, "contrast_weight must not be negative"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"crop": 0.0}, "crop must lie in"),
    ],
)
def test_options_out_of_range(option, message) -> None:
    with pytest.raises(ValueError, match=message):
        CL4SRec(N_ITEMS, **option)
