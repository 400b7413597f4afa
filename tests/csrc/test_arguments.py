"""What the extension's functions refuse: memory that kernels cannot take, and every number by which
one would leave its arrays."""

import mmap
import re
import sys

import numpy as np
import pytest

from pdrec_fast.build_info import extension
from tests.csrc._calls import CALLS, ITEMS, WIDTH, Call

pytestmark = pytest.mark.skipif(extension is None, reason="pdrec_fast._C is not built")

ROWS = 6
WITHOUT_ARRAYS = {"build_info", "set_isa", "use_team"}
every_function = pytest.mark.parametrize("name", sorted(CALLS))


def shown(path):
    """As messages name an array: ``products[2]``."""
    return re.sub(r"\.(\d+)", r"[\1]", path)


def refused(name, call, *, names, error=ValueError):
    with pytest.raises(error) as caught:
        call.run(name)
    message = str(caught.value)
    assert all(each in message for each in names), message
    assert "\n" not in message


def test_every_function_is_here():
    functions = {name for name in dir(extension) if callable(getattr(extension, name))}
    assert functions - {"__loader__"} - set(CALLS) == WITHOUT_ARRAYS


@every_function
def test_the_calls_are_valid_and_write_what_they_say(name):
    call = CALLS[name](ROWS)
    before = {path: array.copy() for path, array in call.arrays().items()}
    call.run(name)
    for path, array in call.arrays().items():
        if path in call.writes:
            continue
        assert np.array_equal(array, before[path]), f"{path} was written"
    # Totals are read in one function and written in its twins.
    readable = {"corpus_derivatives": {"of_rows.3"}}.get(name, set())
    unwritten = [p for p in call.writes if np.array_equal(call.arrays()[p], before[p])]
    assert set(unwritten) - readable <= {"bad", "equal", "nans", "factors"}, unwritten


@every_function
def test_no_rows(name):
    CALLS[name](0).run(name)


@every_function
def test_misaligned(name):
    call = CALLS[name](ROWS)
    for path, array in call.arrays().items():
        if array.itemsize == 1:
            continue
        memory = np.zeros(array.nbytes + array.itemsize, np.uint8)
        shifted = memory[1 : 1 + array.nbytes].view(array.dtype).reshape(array.shape)
        shifted[...] = array
        assert not shifted.flags.aligned
        refused(name, call.with_arrays({path: shifted}), names=[shown(path), "address"])


@every_function
def test_shared_memory(name):
    call = CALLS[name](ROWS)
    arrays = call.arrays()
    for written in call.writes:
        for other, array in arrays.items():
            if other == written:
                continue
            # The other's last element is the written one's first.
            start, size = array.nbytes - array.itemsize, arrays[written].nbytes
            start -= start % arrays[written].itemsize
            memory = np.zeros(start + size + array.nbytes, np.uint8)
            views = {
                other: memory[: array.nbytes].view(array.dtype).reshape(array.shape),
                written: memory[start : start + size]
                .view(arrays[written].dtype)
                .reshape(arrays[written].shape),
            }
            views[other][...] = array
            refused(
                name,
                call.with_arrays(views),
                names=[shown(written), shown(other), "share memory"],
            )


WITHIN = {"words.0": "indptr", "words.1": "users", "of_rows.1": "positives"}
"""What messages call the numbers of a tuple's arrays."""


def changed(array, value, at=-1):
    copy = array.copy()
    copy.reshape(-1)[at] = value
    return copy


@every_function
def test_out_of_range(name):
    call = CALLS[name](ROWS)
    arrays = call.arrays()
    integers = {p for p, array in arrays.items() if array.dtype in (np.int32, np.int64)}
    told = {*call.ranges, *call.rising, *call.any, *call.writes}
    assert integers <= told, "an array of integers of which nothing is said"
    for path, (least, most) in call.ranges.items():
        limits = np.iinfo(arrays[path].dtype)
        for value in {least - 1, most + 1, limits.min, limits.max} - {least, most}:
            if not limits.min <= value <= limits.max:
                continue
            bad = call.with_arrays({path: changed(arrays[path], value)})
            refused(name, bad, names=[WITHIN.get(path, path), f"got {value}"])


@every_function
def test_rows_that_do_not_rise(name):
    call = CALLS[name](ROWS)
    for path in call.rising:
        array = call.arrays()[path]
        for at, value in ((2, -1), (2, array[-1] + 1), (0, -1), (-1, array[-1] + 1)):
            bad = call.with_arrays({path: changed(array, value, at)})
            refused(name, bad, names=[WITHIN.get(path, path)])


@every_function
def test_arrays_of_another_length(name):
    call = CALLS[name](ROWS)
    for path, array in call.arrays().items():
        if (name, path) in {("group_by_item", "items"), ("sum_rows", "stale")}:
            continue  # as long as they like
        others = [array[:0].copy(), np.concatenate([array, array])]
        # More items than are asked for do no harm, nor do observed ones past the last row, nor
        # biases of distances that there are none of.
        if path in {"table", "observed"} - set(call.writes) or (name, path) in LONGER:
            others = others[:1]
        for other in others:
            with pytest.raises(ValueError, match=r"^expected |must (lie in|rise)"):
                call.with_arrays({path: other}).run(name)


LONGER = {("sum_rows", "out"), ("biased_attention", "biases.0")}


@every_function
def test_other_dtypes_layouts_and_read_only_outputs(name):
    call = CALLS[name](ROWS)
    for path, array in call.arrays().items():
        other = np.float64 if array.dtype != np.float64 else np.float32
        call_of_other = call.with_arrays({path: array.astype(other)})
        with pytest.raises((TypeError, ValueError)):
            call_of_other.run(name)
    for path in call.writes:
        if path == "of_rows.3" and name == "corpus_derivatives":
            continue
        array = call.arrays()[path].copy()
        array.flags.writeable = False
        refused(name, call.with_arrays({path: array}), names=["not writeable"])


@pytest.mark.parametrize("name", ["biased_attention", "biased_attention_backward"])
def test_where_buckets_begin(name):
    call = CALLS[name](ROWS)
    begins = call.arrays()["biases.3"]
    for at, value in ((0, 1.0), (0, -1.0), (0, np.nan), (4, 0.0), (4, np.nan), (5, 1e9)):
        bad = call.with_arrays({"biases.3": changed(begins, value, at)})
        refused(name, bad, names=["begins"])
    call.with_arrays({"biases.3": changed(begins, np.inf)}).run(name)
    biases = call.arguments["biases"]
    for at in (1, 2, 3):
        without = tuple(None if i == at else part for i, part in enumerate(biases))
        bad = call._replace(arguments=call.arguments | {"biases": without})
        refused(name, bad, names=["a bias of time, times and begins, or none of them"])


@pytest.mark.parametrize("name", ["biased_attention", "biased_attention_backward"])
def test_pointwise_attention_has_no_softmax(name):
    call = CALLS[name](ROWS)
    arguments = call.arguments | {"pointwise": True}
    refused(name, call._replace(arguments=arguments), names=["no softmax"])
    softmax = arguments["softmax"][:0].copy()
    call._replace(arguments=arguments | {"softmax": softmax}).run(name)


@every_function
def test_the_number_of_threads(name):
    if name == "group_by_item":
        pytest.skip("runs on one thread")
    for n_threads in (0, -1):
        with pytest.raises(ValueError, match=f"n_threads must be at least 1, got {n_threads}"):
            CALLS[name](ROWS).run(name, n_threads)


WIDE = 2**31
TOO_WIDE = [
    ("select_unobserved", {"scores": (0, WIDE)}),
    ("select_unobserved", {"top_items": (0, WIDE)}),
    ("sample_pool", {"scores": (0, WIDE)}),
    ("count_above", {"scores": (0, WIDE)}),
    ("count_above_sums", {"logits": (0, WIDE), "scores": (0, WIDE)}),
    ("noisy_input", {"out": (0, WIDE)}),
    ("shared_softmax", {"block": (0, WIDE)}),
    ("corpus_softmax", {"block": (0, WIDE)}),
    ("corpus_derivatives", {"block": (0, WIDE)}),
    ("shared_softmax_products", {"products.0": (0, 0), "products.1": (WIDE, 0)}),
    ("corpus_softmax_products", {"products.0": (0, 0), "products.1": (WIDE, 0)}),
    ("sasrec_block", {"x": (0, WIDE), "out": (0, WIDE)}),
]


@pytest.mark.parametrize(("name", "shapes"), TOO_WIDE)
def test_more_than_fits_into_an_index(name, shapes):
    call = CALLS[name](0)
    wide = {p: np.empty(shape, call.arrays()[p].dtype) for p, shape in shapes.items()}
    refused(name, call.with_arrays(wide), names=["expected", "2^3"])


@pytest.mark.parametrize(("name", "shapes"), TOO_WIDE[:-3])
def test_the_most_that_fits_into_an_index(name, shapes):
    """Refused for another reason, or taken: nothing as large as that is made."""
    call = CALLS[name](0)
    shapes = {path: (0, WIDE - 1) for path in shapes}
    wide = {p: np.empty(shape, call.arrays()[p].dtype) for p, shape in shapes.items()}
    if name == "shared_softmax":
        refused(name, call.with_arrays(wide), names=["expected negatives of shape"])
    else:
        call.with_arrays(wide).run(name)


def test_the_last_block_of_items_ends_at_the_largest_index():
    call = CALLS["corpus_derivatives"](ROWS)
    at_the_end = call._replace(arguments=call.arguments | {"first_item": 2**31 - ITEMS})
    at_the_end.run("corpus_derivatives")
    for first in (-1, 2**31 - ITEMS + 1):
        outside = call._replace(arguments=call.arguments | {"first_item": first})
        refused("corpus_derivatives", outside, names=["first_item"])


def test_more_rows_than_fit_into_an_index():
    state = {name: np.empty((WIDE, 0), np.float32) for name in ("table", "exp_avg", "exp_avg_sq")}
    call = CALLS["adam_rows"](ROWS).with_arrays(state)
    everything = {"rows": None, "gradients": np.empty((WIDE, 0), np.float32)}
    call = call._replace(arguments=call.arguments | everything)
    refused("adam_rows", call, names=["fewer than 2^31 rows"])


@pytest.mark.skipif(sys.platform != "linux", reason="pages cannot be mapped unused")
def test_more_items_than_fit_into_an_index():
    no_reserve = 0x4000  # mmap.MAP_NORESERVE from Python 3.13 on
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    with mmap.mmap(-1, 4 * WIDE, flags=flags) as pages:
        items = np.frombuffer(pages, np.int32)
        with pytest.raises(ValueError, match=r"fewer than 2\^31 items"):
            extension.group_by_item(items)
        del items


def test_numbers_out_of_range():
    call = CALLS["weighted_bce"](ROWS)
    for n in (-1, 6):
        bad = call._replace(arguments=call.arguments | {"n_positives": n})
        refused("weighted_bce", bad, names=["n_positives"])
    call = CALLS["sasrec_block"](ROWS)
    for n in (-2, 0, 3, 2**40):
        bad = call._replace(arguments=call.arguments | {"n_heads": n})
        refused("sasrec_block", bad, names=["n_heads"])
    call = CALLS["random_words"](ROWS)
    for name, value in (("seed", 2**64), ("seed", -1), ("epoch", 2**32), ("stream", -1)):
        bad = call._replace(arguments=call.arguments | {name: value})
        refused_number = pytest.raises(TypeError, match="incompatible function arguments")
        with refused_number:
            bad.run("random_words")


def test_observed_items_that_do_not_ascend():
    for name in ("select_unobserved", "sample_pool"):
        call = CALLS[name](ROWS)
        observed = call.arrays()["observed"]
        twice = changed(observed, observed[4], at=5)
        refused(name, call.with_arrays({"observed": twice}), names=["observed", "row 1"])


def test_groups_that_would_write_to_one_row_twice():
    call = CALLS["table_gradient"](ROWS)
    items = call.arrays()["group_items"]
    twice = call.with_arrays({"group_items": changed(items, items[1], at=2)})
    refused("table_gradient", twice, names=["group_items", "ascend"])


def test_stale_rows_are_checked_before_anything_is_cleared():
    call = CALLS["sum_rows"](ROWS)
    out = np.ones((ITEMS, WIDTH), np.float32)
    stale = changed(call.arrays()["stale"], ITEMS)
    refused("sum_rows", call.with_arrays({"stale": stale, "out": out}), names=["stale"])
    assert (out == 1).all()


def test_a_call_lists_its_arrays():
    call = Call({"a": np.zeros(1), "b": (np.zeros(2), 3), "c": 4}, ("b.0",))
    assert list(call.arrays()) == ["a", "b.0"]
    changed_call = call.with_arrays({"b.0": np.ones(2)})
    assert changed_call.arguments["b"][0].tolist() == [1, 1]
    assert changed_call.arguments["b"][1] == 3
