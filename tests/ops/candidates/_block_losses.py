"""What the losses of states against the same items keep beyond ``LossContract``, and otherwise."""

import importlib

import pytest
import torch

from pdrec_fast.build_info import build_info, extension
from pdrec_fast.ops.candidates import _blocks
from tests.ops.candidates._losses import COSINE, DOT, LossContract, needs_extension, relative_error


@pytest.fixture
def products(monkeypatch):
    """The dtypes of all products of matrices so far, those in the extension's calls included."""
    dtypes = []

    def take_all(kernel, states, of_items, out, wanted):
        count = 1 + wanted.of_states + wanted.of_table
        dtypes.extend([states.dtype] * count)
        before(kernel, states, of_items, out, wanted)

    before = _blocks._take_all
    monkeypatch.setattr(_blocks, "_take_all", take_all)

    def counting(of):
        def counted(*args):
            dtypes.append(next(x.dtype for x in args[::-1] if isinstance(x, torch.Tensor)))
            return of(*args)

        return counted

    for name in ("_products", "_add_product"):
        monkeypatch.setattr(_blocks, name, counting(getattr(_blocks, name)))
    return dtypes


class BlockLossContract(LossContract):
    """Attribute ``op``: the name of the custom op."""

    op: str

    @needs_extension
    @pytest.mark.parametrize("settings", [DOT, COSINE])
    def test_bits_depend_neither_on_threads_nor_on_the_instruction_set(self, settings, monkeypatch):
        """On the instruction set they do by its fused multiply-adds."""
        floats, rest = self.make_inputs(1701, 70, 61, 300)
        before, results = build_info()["isa"], {}
        for isa in build_info()["isas_runnable"]:
            extension.set_isa(isa)
            for n_threads in (1, 2, 3):
                monkeypatch.setattr(torch, "get_num_threads", lambda n=n_threads: n)
                loss, gradients = self.run(floats, rest, settings, impl="cpp")
                result = loss, *gradients
                assert all(map(torch.equal, result, results.setdefault(isa, result)))
        extension.set_isa(before)
        fused = [results[isa] for isa in results if isa != "baseline"]
        for result in fused:
            assert all(map(torch.equal, result, fused[0]))
        for one, other in zip(results["baseline"], fused[0] if fused else (), strict=False):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)

    @needs_extension
    @pytest.mark.parametrize("settings", [DOT, COSINE])
    @pytest.mark.parametrize("width", [48, 61, 160])
    def test_parts_of_several_blocks(self, settings, width, monkeypatch):
        """Of states, each with a gradient of the items of its own."""
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
        floats, rest = self.make_inputs(1201, 2, width, 1100)
        wide = [x.double() for x in floats]
        truth, true_gradients = self.run(wide, rest, settings, impl="reference")
        loss, gradients = self.run(floats, rest, settings, impl="cpp")
        assert relative_error(loss, truth) <= 1e-6
        for found, true in zip(gradients, true_gradients, strict=True):
            assert relative_error(found, true) <= 1e-5

    @needs_extension
    @pytest.mark.parametrize("settings", [DOT, COSINE])
    def test_several_threads(self, settings, monkeypatch):
        floats, rest = self.make_inputs(1500, 3, 9, 2000)
        loss, gradients = self.run(floats, rest, settings, impl="cpp")
        monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
        other, others = self.run(floats, rest, settings, impl="cpp")
        assert torch.equal(loss, other)
        assert all(map(torch.equal, gradients, others))

    @needs_extension
    @pytest.mark.parametrize("settings", [DOT, COSINE])
    @pytest.mark.parametrize("autocast", [False, True])
    def test_bfloat16_products(self, impl, settings, autocast, products):
        if impl == "reference":
            pytest.skip("it computes in the dtype of its arguments")
        floats, rest = self.make_inputs(70, 3, 64, 500)
        floats = [x.bfloat16() for x in floats]
        wide = [x.float() for x in floats]
        truth, true_gradients = self.run(wide, rest, settings, impl="reference")
        given = [floats[0].float() if autocast else floats[0], floats[1].float()]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss, gradients = self.run(given, rest, settings, impl=impl)
        assert products == [torch.bfloat16] * 3
        assert loss.dtype == torch.float32
        assert [x.dtype for x in gradients] == [x.dtype for x in given]
        assert relative_error(loss, truth) <= 4e-3
        for found, true in zip(gradients, true_gradients, strict=True):
            error = (found.double() - true).norm() / true.double().norm()
            assert error <= 2e-2

    @needs_extension
    def test_autocast_and_half_precision_states_keep_a_float32_loss(self, products):
        """See ``test_bfloat16_products``; without autocast float32 stays float32."""
        floats, rest = self.make_inputs(5, 7, 9, 17)
        self.run(floats, rest, COSINE, impl="cpp")
        assert products == [torch.float32] * 3

    @needs_extension
    @pytest.mark.parametrize(
        ("needs", "count"), [((), 1), ((0,), 2), ((1,), 2), ((0, 1), 3)], ids=str
    )
    def test_products_are_those_of_the_gradients_asked_for(self, needs, count, products):
        floats, rest = self.make_inputs(5, 7, 9, 17)
        for each in needs:
            floats[each].requires_grad_()
        loss = self.loss(*floats, *rest, impl="cpp", **COSINE)
        assert len(products) == count
        if needs:
            loss.backward()
            assert all(floats[each].grad.any() for each in needs)
        products.clear()
        with torch.no_grad():
            assert torch.equal(self.loss(*floats, *rest, impl="cpp", **COSINE), loss)
        assert len(products) == 1

    @needs_extension
    @pytest.mark.parametrize("settings", [DOT, COSINE])
    def test_blocks_of_few_tokens(self, impl, settings, monkeypatch):
        floats, rest = self.make_inputs(33, 7, 37, 50)
        loss, gradients = self.run(floats, rest, settings, impl=impl)

        def few(n_tokens, n_items, *_, **__):
            return _blocks._ranges(n_tokens, 5), [slice(0, n_items)]

        monkeypatch.setattr(_blocks, "blocks", few)
        op = importlib.import_module(f"pdrec_fast.ops.candidates.{self.op}")
        monkeypatch.setattr(op._CppKernel, "multiplies", False)  # torch does
        other, others = self.run(floats, rest, settings, impl=impl)
        torch.testing.assert_close(loss, other)
        for one, two in zip(gradients, others, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)

    def opcheck(self, *arguments, n_settings):
        op = getattr(torch.ops.pdrec_fast, self.op).default
        torch.library.opcheck(op, (*arguments, False, True, True, *[False] * n_settings))
