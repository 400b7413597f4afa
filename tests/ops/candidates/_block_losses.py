"""What the losses of states against the same items keep beyond ``LossContract``, and otherwise."""

import pytest
import torch

from pdrec_fast.build_info import build_info, extension
from pdrec_fast.ops.candidates import _blocks
from tests.ops.candidates._losses import COSINE, DOT, LossContract, needs_extension, relative_error


@pytest.fixture
def products(monkeypatch):
    """The dtypes of all products of matrices so far."""
    dtypes = []

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
    def test_bits_depend_neither_on_threads_nor_on_the_instruction_set(self, settings):
        """Nor do they on threads, but for the products, which are torch's."""
        floats, rest = self.make_inputs(701, 70, 61, 300)
        before, results = build_info()["isa"], []
        for isa in build_info()["isas_runnable"]:
            extension.set_isa(isa)
            loss, gradients = self.run(floats, rest, settings, impl="cpp")
            results.append((loss, *gradients))
        extension.set_isa(before)
        for result in results:
            assert all(map(torch.equal, result, results[0]))

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
        other, others = self.run(floats, rest, settings, impl=impl)
        torch.testing.assert_close(loss, other)
        for one, two in zip(gradients, others, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)

    def opcheck(self, *arguments, n_settings):
        op = getattr(torch.ops.pdrec_fast, self.op).default
        torch.library.opcheck(op, (*arguments, False, True, True, *[False] * n_settings))
