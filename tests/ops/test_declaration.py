"""``operation``: what follows from one declaration of a custom op."""

from typing import Any, NamedTuple

import pytest
import torch

from pdrec_fast.ops.declaration import operation


class Line(NamedTuple):
    slope: torch.Tensor
    offset: float


@operation(
    fake=lambda a: (a.x.new_empty(a.x.shape), a.x.new_empty(len(a.x))),
    autocast={"cpu": torch.float32},
)
def _line_of_test(
    x: torch.Tensor, line: Line, label: str = "plain"
) -> tuple[torch.Tensor, torch.Tensor]:
    """(slope x + offset, the sums of x)."""
    y = x * line.slope + line.offset
    return (y * 2 if label == "double" else y), x.sum(1)


@_line_of_test.gradient(of=["slope", "x"], saves=["x", "line"], outputs=[1], constant=[1])
def _(saved: Any, grad_y: torch.Tensor, _: None) -> tuple[torch.Tensor | None, torch.Tensor]:
    assert saved.outputs[0].shape == saved.x.shape[:1]
    assert saved.line.offset == 0.5
    grad_slope = (grad_y * saved.x).sum() if "slope" in saved.needs else None
    return grad_slope, grad_y * saved.line.slope


@operation(fake=lambda a: None, mutates=["out"])
def _doubled_into_of_test(out: torch.Tensor, x: torch.Tensor) -> None:
    out.copy_(2 * x)


@pytest.fixture
def x():
    return torch.arange(6.0).view(2, 3).requires_grad_()


def test_a_group_is_seen_whole_by_the_function_and_flat_by_torch(x):
    y, sums = _line_of_test(x, Line(torch.tensor(3.0), 0.5))
    torch.testing.assert_close(y, 3 * x + 0.5)
    torch.testing.assert_close(sums, x.sum(1))
    schema = torch.ops.pdrec_fast.line_of_test.default._schema
    assert [a.name for a in schema.arguments] == ["x", "slope", "offset", "label"]


def test_defaults_and_other_values_of_last_arguments(x):
    line = Line(torch.tensor(3.0), 0.5)
    plain, double = (_line_of_test(x, line, label)[0] for label in ("plain", "double"))
    assert torch.equal(double, 2 * plain)


def test_gradients_by_name_and_only_where_needed(x):
    slope = torch.tensor(3.0, requires_grad=True)
    _line_of_test(x, Line(slope, 0.5))[0].sum().backward()
    torch.testing.assert_close(x.grad, torch.full((2, 3), 3.0))
    assert slope.grad == 15
    x.grad = None
    _line_of_test(x, Line(torch.tensor(3.0), 0.5))[0].sum().backward()
    torch.testing.assert_close(x.grad, torch.full((2, 3), 3.0))


def test_a_constant_output_has_no_gradient(x):
    assert not _line_of_test(x, Line(torch.tensor(3.0), 0.5))[1].requires_grad


def test_autocast_widens(x):
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = _line_of_test(x.detach().bfloat16(), Line(torch.tensor(3.0), 0.5))
    assert y.dtype == torch.float32


def test_torch_finds_schema_fake_and_gradient_consistent(x):
    slope = torch.tensor(3.0, requires_grad=True)
    torch.library.opcheck(torch.ops.pdrec_fast.line_of_test.default, (x, slope, 0.5))


def test_an_op_may_write_to_an_argument_and_return_nothing(x):
    out = torch.full((2, 3), torch.nan)
    assert _doubled_into_of_test(out, x.detach()) is None
    assert torch.equal(out, 2 * x)
    op = torch.ops.pdrec_fast.doubled_into_of_test.default
    assert op._schema.arguments[0].alias_info.is_write
    torch.library.opcheck(op, (out, x.detach()))
