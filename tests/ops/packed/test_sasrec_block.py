"""``sasrec_block``: accuracy against float64, gradients of everything, and equal bits."""

import numpy as np
import pytest
import torch

from pdrec_fast.build_info import build_info, extension
from pdrec_fast.errors import BackendError
from pdrec_fast.operands import SasrecBlock
from pdrec_fast.ops.packed._sequences import DropoutKey
from pdrec_fast.ops.packed.sasrec_block import sasrec_block
from tests.ops.packed._sequences import key_for, offsets

pytestmark = pytest.mark.usefixtures("poisoned_outputs")
needs_extension = pytest.mark.skipif(extension is None, reason="pdrec_fast._C is not built")
LENGTHS = (200, 33, 17, 17, 8, 5, 2, 2, 1, 1)
SHAPES = [(1, 64), (2, 64), (2, 8), (1, 128), (1, 17), (5, 35), (2, 50), (1, 1)]  # heads, width


def make_inputs(n_tokens, width, dtype=torch.float32):
    """x and the parameters, all random: zero biases and unit gains would hide mistakes."""
    generator = torch.Generator().manual_seed(width)
    shapes = [
        (3 * width if name in ("in_weight", "in_bias") else width,)
        + ((width,) if name.endswith("weight") else ())
        for name in SasrecBlock._fields
    ]
    scales = [width**-0.5 if len(shape) == 2 else 0.5 for shape in shapes]
    tensors = [
        scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        for scale, shape in zip([1.0, *scales], [(n_tokens, width), *shapes], strict=True)
    ]
    tensors[1] += 1
    tensors[7] += 1
    return [tensor.to(dtype).requires_grad_() for tensor in tensors]


def run(leaves, lengths, **keywords):
    """Output and gradients for a fixed direction."""
    x, *parameters = leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    out = sasrec_block(x, offsets(lengths), SasrecBlock(*parameters), **keywords)
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, direction)]


def keywords_for(lengths, dropout, **more):
    return {"dropout": dropout, "key": key_for(lengths), "stream": 19} | more


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("lengths", [LENGTHS, (1,), (3, 0, 1)])
@pytest.mark.parametrize(("heads", "width"), SHAPES)
def test_as_accurate_as_torchs_layers(heads, width, lengths, dropout, impl):
    leaves = make_inputs(sum(lengths), width)
    keywords = keywords_for(lengths, dropout, heads=heads)
    truth = run([leaf.double() for leaf in leaves], lengths, impl="reference", **keywords)
    eager = run(leaves, lengths, impl="reference", **keywords)
    found = run(leaves, lengths, impl=impl, **keywords)
    if width == 1:  # a norm of one column is its shift, and its gradient rounding alone
        assert all(tensor.isfinite().all() for tensor in found)
        truth, eager, found = truth[:1], eager[:1], found[:1]
    largest = max(float(true.abs().max()) for true in truth[1:]) if len(truth) > 1 else 0
    names = ["out", "x", *SasrecBlock._fields]
    for name, true, torchs, ours in zip(names, truth, eager, found, strict=False):
        assert ours.dtype == torch.float32
        # The keys' bias moves no output: its gradient is what rounding leaves of large terms.
        scale = largest if name == "in_bias" else float(true.abs().max())
        rtol = 1e-5 if name == "out" else 1e-4
        torch.testing.assert_close(ours.double(), true, rtol=rtol, atol=rtol * scale, msg=name)
        error, allowed = ((t.double() - true).square().mean().sqrt() for t in (ours, torchs))
        assert error <= 2 * allowed + 3e-7 * scale, name


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_of_the_reference(dropout):
    lengths, leaves = (4, 2, 1), make_inputs(7, 4, torch.float64)

    def block(x, *parameters):
        keywords = keywords_for(lengths, dropout, heads=2, impl="reference")
        return sasrec_block(x, offsets(lengths), SasrecBlock(*parameters), **keywords)

    assert torch.autograd.gradcheck(block, leaves)


@needs_extension
@pytest.mark.parametrize("width", [64, 17])
def test_the_bits_do_not_depend_on_threads(width):
    lengths = (200,) * 6 + tuple(range(60, 0, -1))  # enough work for several threads
    leaves = make_inputs(sum(lengths), width)
    before, results = torch.get_num_threads(), []
    for n_threads in (1, 2, 3):
        torch.set_num_threads(n_threads)
        results.append(run(leaves, lengths, impl="cpp", **keywords_for(lengths, 0.2)))
    torch.set_num_threads(before)
    for result in results[1:]:
        for one, other in zip(result, results[0], strict=True):
            assert torch.equal(one, other)


@needs_extension
def test_instruction_sets_agree_but_for_rounding():
    leaves, before = make_inputs(sum(LENGTHS), 35), build_info()["isa"]
    results = []
    for isa in build_info()["isas_runnable"]:
        extension.set_isa(isa)
        results.append(run(leaves, LENGTHS, impl="cpp", **keywords_for(LENGTHS, 0.2)))
    extension.set_isa(before)
    for result in results[1:]:
        for one, other in zip(result, results[0], strict=True):
            atol = 1e-5 * float(other.abs().max())
            torch.testing.assert_close(one, other, rtol=1e-4, atol=atol)


def test_a_sequence_does_not_depend_on_its_batch(impl):
    leaves = make_inputs(sum(LENGTHS), 12)
    key, order = key_for(LENGTHS), [3, 9, 0, 7, 5]
    together = run(leaves, LENGTHS, heads=2, impl=impl, **keywords_for(LENGTHS, 0.3))[0]
    lengths = [LENGTHS[at] for at in order]
    x = torch.cat([leaves[0].detach().split(LENGTHS)[at] for at in order])
    alone = DropoutKey(key.seed, key.epoch, key.users[order])
    keywords = {"heads": 2, "impl": impl, "dropout": 0.3, "key": alone, "stream": 19}
    found = run([x, *leaves[1:]], lengths, **keywords)[0]
    expected = torch.cat([together.split(LENGTHS)[at] for at in order])
    assert torch.equal(found, expected) or impl == "reference"
    torch.testing.assert_close(found, expected)


def test_what_is_not_finite_stays_in_its_sequence(impl):
    lengths = (20, 9, 3)
    leaves = make_inputs(32, 16)
    clean = run(leaves, lengths, impl=impl)[0]
    with torch.no_grad():
        leaves[0][20:29] = torch.nan
    found = run(leaves, lengths, impl=impl)[0]
    assert found[20:29].isnan().all()
    assert torch.equal(found[:20], clean[:20])
    assert torch.equal(found[29:], clean[29:])


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_without_gradients_the_output_is_the_same(dropout, impl):
    x, *parameters = make_inputs(sum(LENGTHS), 24)
    keywords = keywords_for(LENGTHS, dropout, heads=2, impl=impl)
    arguments = x, offsets(LENGTHS), SasrecBlock(*parameters)
    expected = sasrec_block(*arguments, **keywords)
    assert expected.requires_grad
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert torch.equal(sasrec_block(*arguments, **keywords), expected)


def test_other_layouts(impl):
    leaves = make_inputs(sum(LENGTHS), 24)
    turned = [t.detach().t().contiguous().t() if t.ndim == 2 else t for t in leaves]
    keywords = keywords_for(LENGTHS, 0.2, impl=impl)
    for found, expected in zip(
        run(turned, LENGTHS, **keywords), run(leaves, LENGTHS, **keywords), strict=True
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("needed", [0, 1, 3, 12])
def test_a_gradient_for_one_input_alone(needed, impl):
    leaves = [leaf.detach() for leaf in make_inputs(7, 8)]
    expected = run(leaves, (5, 2), impl=impl)
    leaves[needed].requires_grad_()
    out = sasrec_block(leaves[0], offsets((5, 2)), SasrecBlock(*leaves[1:]), impl=impl)
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(out.shape, generator=generator, dtype=torch.float64).float()
    (found,) = torch.autograd.grad(out, leaves[needed], direction)
    torch.testing.assert_close(found, expected[1 + needed])


@pytest.mark.parametrize("lengths", [(), (0,)])
def test_without_tokens(lengths, impl):
    out, grad_x, *gradients = run(make_inputs(0, 6), lengths, impl=impl, heads=2)
    assert out.shape == grad_x.shape == (0, 6)
    assert not any(gradient.any() for gradient in gradients)


@needs_extension
def test_custom_op_contract():
    torch.use_deterministic_algorithms(False)
    leaves, words = make_inputs(7, 8), (offsets((5, 2)), torch.arange(2), 0.3, -5, 2, 17)
    arguments = (leaves[0], *words, *leaves[1:], 2, True)
    torch.library.opcheck(torch.ops.pdrec_fast.sasrec_block.default, arguments)


@needs_extension
def test_compiles_without_a_graph_break():
    torch.use_deterministic_algorithms(False)
    x, *parameters = leaves = make_inputs(7, 8)
    arguments = x, offsets((5, 2)), SasrecBlock(*parameters)
    keywords = keywords_for((5, 2), 0.3, impl="cpp")
    compiled = torch.compile(sasrec_block, fullgraph=True, backend="aot_eager")
    actual = torch.autograd.grad(compiled(*arguments, **keywords).sum(), leaves)
    eager = torch.autograd.grad(sasrec_block(*arguments, **keywords).sum(), leaves)
    for found, expected in zip(actual, eager, strict=True):
        assert torch.equal(found, expected)


@needs_extension
def test_auto_takes_the_extension_and_torchs_layers_elsewhere():
    leaves, lengths = make_inputs(7, 8), (5, 2)
    auto = run(leaves, lengths)
    for found, expected in zip(auto, run(leaves, lengths, impl="cpp"), strict=True):
        assert torch.equal(found, expected)
    wide = [leaf.double() for leaf in leaves]
    assert run(wide, lengths)[0].dtype == torch.float64
    with pytest.raises(BackendError, match=r"float32, got torch.float64.*layers"):
        run(wide, lengths, impl="cpp")
    arguments = leaves[0], offsets(lengths), SasrecBlock(*leaves[1:])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(
            sasrec_block(*arguments), sasrec_block(*arguments, impl="layers", parts="cpp")
        )
        with pytest.raises(BackendError, match="autocast"):
            sasrec_block(*arguments, impl="cpp")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(7)}, r"x must have shape \[T, d\], got \(7,\)"),
        ({"heads": 3}, "heads=3 must divide the width of x, 8"),
        ({"heads": 0}, "heads=0 must divide"),
        ({"indptr": torch.tensor([0, 6])}, r"indptr must rise from 0 to 7"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"dropout": 0.1}, "dropout=0.1 needs a key"),
        ({"impl": "numba"}, r"unknown impl='numba'.*cpp"),
    ],
)
def test_bad_arguments_are_named(change, message):
    x, *parameters = make_inputs(7, 8)
    arguments = {"x": x, "indptr": offsets((5, 2)), "block": SasrecBlock(*parameters)} | change
    with pytest.raises(ValueError, match=message):
        sasrec_block(**arguments)


@pytest.mark.parametrize("name", SasrecBlock._fields)
def test_parameters_must_fit_the_width(name):
    x, *parameters = make_inputs(7, 8)
    block = SasrecBlock(*parameters)
    block = block._replace(**{name: getattr(block, name)[..., :-1]})
    with pytest.raises(ValueError, match=rf"block.{name} must have shape"):
        sasrec_block(x, offsets((5, 2)), block)


def test_the_random_numbers_are_those_of_the_layers(impl):
    """With weights that pass their input on, what is zero shows what was dropped."""
    lengths, width = (40, 7), 16
    leaves = make_inputs(sum(lengths), width)
    keywords = keywords_for(lengths, 0.5)
    expected = run(leaves, lengths, impl="reference", **keywords)[-1]
    np.testing.assert_allclose(run(leaves, lengths, impl=impl, **keywords)[-1], expected, 1e-5)
