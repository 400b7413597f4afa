"""Memory of large temporaries that is kept from use to use."""

import gc
import threading
import weakref

import numpy as np
import pytest
import torch

import pdrec_fast as pf
from pdrec_fast import buffers
from pdrec_fast.buffers import Buffers

LARGE = (1024, 512)  # 2 MiB of float32
BYTES = 1024 * 512 * 4


def lent_large(shape=LARGE, dtype=torch.float32):
    return buffers.empty(shape, dtype)


def test_memory_comes_back_when_the_tensor_is_gone():
    kept = Buffers()
    with kept.lent():
        first = lent_large()
        place = first.data_ptr()
        assert first.shape == LARGE
        assert first.is_contiguous()
        assert not first._is_view()
        assert kept.free_bytes == 0
        del first
        assert kept.free_bytes == BYTES
        assert lent_large((64, 512), torch.float64).numel() == 64 * 512  # small: of malloc
        second = lent_large((2048, 512), torch.bfloat16)
        assert second.dtype == torch.bfloat16
        assert second.data_ptr() == place


def test_memory_in_use_is_never_lent_again():
    kept = Buffers()
    with kept.lent():
        tensor = lent_large().fill_(1.0)
        view = tensor[3:5].T
        array = tensor[7].numpy()
        del tensor
        other = lent_large().fill_(2.0)
        assert (view == 1).all()
        assert (array == 1).all()
        del view
        assert kept.free_bytes == 0
        del array
        assert kept.free_bytes == BYTES
        del other
    assert kept.free_bytes == 2 * BYTES


def test_a_block_that_is_too_small_makes_room_for_a_larger_one():
    kept = Buffers()
    with kept.lent():
        for rows in (1024, 2048, 4096, 2048, 1024):
            lent_large((rows, 512))
        assert kept.free_bytes == 4 * BYTES
        lent_large((512, 512))
        assert kept.free_bytes == 4 * BYTES


def test_the_smallest_block_that_fits_is_taken():
    kept = Buffers()
    with kept.lent():
        large, small = lent_large((4096, 512)), lent_large()
        places = small.data_ptr(), large.data_ptr()
        del large, small
        again = lent_large(), lent_large()
        assert tuple(tensor.data_ptr() for tensor in again) == places


def test_outside_of_its_block_and_in_other_threads_nothing_is_lent():
    kept, inner = Buffers(), Buffers()
    with kept.lent():
        thread = threading.Thread(target=lent_large)
        thread.start()
        thread.join()
        with inner.lent():
            lent_large()
        assert (kept.free_bytes, inner.free_bytes) == (0, BYTES)
        lent_large()
        assert kept.free_bytes == BYTES
    held = lent_large()
    assert kept.free_bytes == BYTES
    assert (held + 1).shape == LARGE


def test_a_meta_tensor_takes_no_memory():
    kept = Buffers()
    with kept.lent():
        assert buffers.empty(LARGE, torch.float32, torch.device("meta")).is_meta
    assert kept.free_bytes == 0


def test_it_goes_with_its_owner_but_not_with_a_tensor_in_use():
    kept = Buffers()
    with kept.lent():
        escaped, _ = lent_large().fill_(3.0), lent_large()
    gone = weakref.ref(kept)
    del kept
    gc.collect()
    assert gone() is None
    assert (escaped == 3).all()
    del escaped


def test_threads_may_share_it():
    kept, wrong = Buffers(), []

    def work(number):
        with kept.lent():
            for _ in range(50):
                tensor = lent_large().fill_(number)
                if not (tensor == number).all():
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert kept.free_bytes <= 8 * BYTES  # each holds its last tensor while it asks for the next


def test_products_are_torchs_and_recorded_where_they_must_be():
    torch.manual_seed(0)
    left, right = torch.randn(600, 30), torch.randn(30, 700)
    kept = Buffers()
    with kept.lent():
        assert torch.equal(buffers.mm(left, right), left @ right)
        assert kept.free_bytes == 600 * 700 * 4
        left.requires_grad_()
        assert buffers.mm(left, right).requires_grad
        with torch.no_grad():
            assert not buffers.mm(left, right).requires_grad


def page_faults():
    resource = pytest.importorskip("resource")
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


@pytest.mark.parametrize(
    ("hidden", "precision"), [(100, "fp32"), (100, "bf16"), (32, "fp32")], ids=str
)
def test_a_diffusion_step_takes_no_fresh_pages(hidden, precision):
    users, items = 64, 140_000  # a B x N array is 36 MB, beyond malloc's largest threshold
    rng = np.random.default_rng(0)
    data = pf.Interactions(
        indptr=np.arange(users + 1) * 5,
        items=rng.integers(items, size=users * 5),
        timestamps=np.tile(np.arange(5.0), users),
        user_ids=np.arange(users),
        item_ids=np.arange(items),
    )
    model = pf.DiffRec(hidden=(hidden,), batch_size=users, precision=precision, device="cpu")
    model.denoiser = model._new_denoiser(items)
    task = model.training_task(data)
    for epoch in range(2):
        task.train_epoch(epoch)
    before = page_faults()
    task.train_epoch(2)
    # The smallest of its large arrays would take 2,200 of 4 KiB.
    assert page_faults() - before < 1_000
    place = weakref.ref(task.buffers)
    del task
    gc.collect()
    assert place() is None


def test_the_gradient_of_gathered_rows_is_lent():
    table = torch.ones(*LARGE, requires_grad=True)
    index, kept = torch.tensor([3, 0, 3]), Buffers()
    with kept.lent():
        found = buffers.rows(table, index)
        assert torch.equal(found, table[index])
        (found * torch.tensor([[1.0], [2.0], [4.0]])).sum().backward()
    wanted = torch.zeros(1024)
    wanted[[0, 3]] = torch.tensor([2.0, 5.0])
    assert torch.equal(table.grad, wanted[:, None].expand(LARGE))
    assert kept.free_bytes == 0
    table.grad = None
    assert kept.free_bytes == BYTES
