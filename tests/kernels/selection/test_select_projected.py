"""``select_projected`` in Triton: the ids of the CPU's operations, however its search goes."""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from pdrec_fast.operands import DrawKey, Projection
from pdrec_fast.ops.selection.sample_pool import sample_pool
from pdrec_fast.ops.selection.select_projected import select_projected
from pdrec_fast.ops.selection.select_unobserved import select_unobserved
from pdrec_fast.reference.selection import select_projected as reference

pytest.importorskip("triton", reason="Triton is not installed")
tiles = pytest.importorskip("pdrec_fast.kernels.triton.selection._score_tiles")
kernels = pytest.importorskip("pdrec_fast.kernels.triton.selection.select_projected")
pool_draws = pytest.importorskip("pdrec_fast.kernels.triton.selection._pool_draws")

ROWS, ITEMS, HIDDEN = 19, 101, 21  # two tiles of users, four of items
TOP, DRAWS = 5, 17
KEYS = {"seed": 2**63 + 5, "epoch": 2**31 + 1, "users": np.arange(ROWS) * 110_000_003}
TILE = tiles.Tile(16, 32, 32, n_warps=4, sample=64, capacity=64)
TILES = {
    "resident": TILE,
    "deep": replace(TILE, depth=16, n_stages=3),
    "wide": replace(TILE, items=64),
}


pytestmark = pytest.mark.usefixtures("poisoned_outputs")


@pytest.fixture
def redone(monkeypatch):
    """How many rows were done again, call by call."""
    calls = []
    materialized = reference.select_materialized

    def count(projection, *arguments):
        calls.append(len(projection.vectors))
        return materialized(projection, *arguments)

    monkeypatch.setattr(reference, "select_materialized", count)
    return calls


def corpus(device, dtype=torch.float32, n_items=ITEMS, repeats=1):
    """Small whole numbers: every product and sum is exact, so scores are the same everywhere."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randint(-4, 5, (ROWS, HIDDEN), generator=generator).float()
    table = torch.randint(-4, 5, (n_items, HIDDEN), generator=generator).float()
    bias = torch.randint(-40, 41, (n_items,), generator=generator) / 64
    of_item = torch.arange(n_items) // repeats
    return vectors.to(device), table[of_item].to(device, dtype), bias[of_item].to(device)


def rows(omega=0.5, n_items=ITEMS, all_seen=0):
    rng = np.random.default_rng(1)
    sizes = rng.integers(0, 12, ROWS)
    sizes[0] = 0
    sizes[1] = all_seen or sizes[1]
    items = [np.sort(rng.choice(n_items, size, replace=False)) for size in sizes]
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    first_rank = np.floor(omega * (n_items - sizes)).astype(np.int64)
    return (indptr, np.concatenate(items).astype(np.int32)), first_rank


def check(matrices, observed, first_rank, tile=TILE, top_m=TOP, on_device=False):
    """All results against those of the CPU's operations for the same scores."""
    vectors, table, bias = (matrix.cpu() for matrix in matrices)
    scores = reference.projected_scores(Projection(vectors, table, bias))
    chosen = select_unobserved(scores, observed, top_m, first_rank)
    draws = sample_pool(scores, observed, chosen[1], chosen[2], DRAWS, **KEYS)
    of_row = np.repeat(np.arange(ROWS), np.diff(observed[0]))
    expected = (*chosen, scores[of_row, observed[1].astype(np.int64)], draws)
    keys = dict(KEYS)
    if on_device:
        device = matrices[0].device
        observed = tuple(torch.from_numpy(array).to(device) for array in observed)
        first_rank = torch.from_numpy(first_rank).to(device)
        keys["users"] = torch.from_numpy(KEYS["users"]).to(device)
    found = select_projected(
        *matrices, observed, top_m, first_rank, DRAWS, **keys, impl="triton", tile=tile
    )
    for name, result, truth in zip(found._fields, found, expected, strict=True):
        assert result.dtype == truth.dtype, name
        assert torch.equal(result.cpu(), truth), name
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("tile", TILES)
def test_equals_the_cpu(device, dtype, tile, redone):
    check(corpus(device, dtype), *rows(), TILES[tile], on_device=tile == "deep")
    assert not redone


@pytest.mark.parametrize("omega", [0.0, 0.9])
def test_thresholds_near_the_ends(device, omega, redone):
    check(corpus(device), *rows(omega), replace(TILE, capacity=128))
    assert not redone


def test_equal_scores_go_to_the_lower_item(device):
    check(corpus(device, repeats=3), *rows())


def worked_example():
    """The numbers of the example in the kernels' docstring, by name."""
    lines = re.findall(r"^    (\w+) +(\d[\d ]*?) *(?:#.*)?$", kernels.__doc__, re.MULTILINE)
    return {name: [int(number) for number in numbers.split()] for name, numbers in lines}


def test_the_worked_example_is_right(device):
    example = worked_example()

    def given(name):
        return torch.tensor([float(number) for number in example[name]], device=device)

    def number(tensor):
        return tensor.flatten().tolist()

    def items_of(bits):
        return [item for item in range(8) if bits[0, 0] >> item & 1]

    (top_m,), (rank,), (place,) = (example[name] for name in ("top_m", "rank", "place"))
    matrices = torch.ones(1, 1, device=device), given("score")[:, None], given("score") * 0
    corpus = tiles.Corpus(*matrices, TILE)
    seen = torch.tensor(example["observed"], dtype=torch.int32, device=device)
    bits = kernels._observed_bits(corpus, torch.zeros_like(seen).long(), seen)
    assert items_of(bits) == example["observed"]

    bounds = given("upper"), given("lower")
    n_upper, n_lower, best = kernels._count(corpus, bits, *bounds, top_m)
    assert (number(n_upper), number(n_lower)) == (example["n_upper"], example["n_lower"])
    least = kernels._least_of_top(best, top_m)
    assert number(least) == example["least"]

    keys, size, n_below = kernels._collect(corpus, bits.clone(), least, *bounds, top_m)
    scores, items = kernels.unpack_key(keys)
    assert (number(size), number(n_below)) == (example["size"], example["n_below"])
    assert number(items[:, : int(size)]) == example["keys"]
    assert number(scores[:, : int(size)]) == number(given("score")[example["keys"]])
    n_between = ((scores >= bounds[1]) & (scores <= bounds[0]))[:, : int(size)].sum(1)
    assert number(n_between) == example["n_between"]
    n_unobserved = len(example["item"]) - len(seen)
    within = rank - (n_unobserved - n_below - n_between)
    assert number(within) == example["within"]
    assert number(n_upper + within) == [place]
    assert example["keys"][place] == example["threshold_item"][0]

    counts = torch.tensor([n_unobserved], device=device), torch.tensor([rank], device=device)
    found = kernels._select_listed(corpus, bits, *bounds, best, *counts, top_m)
    for name in ("top_items", "threshold_item", "threshold_score"):
        assert number(getattr(found, name)) == example[name], name
    assert items_of(found.pool) == example["pool"]
    assert number(found.state) == [0]

    observed = np.array([0, 1]), seen.cpu().numpy()
    key = {"seed": 0, "users": np.zeros(1, np.int64)}
    whole = select_projected(
        *matrices, observed, top_m, np.array([rank]), 20, **key, impl="triton", tile=TILE
    )
    for name in ("top_items", "threshold_item", "threshold_score"):
        assert number(getattr(whole, name)) == example[name], name
    assert set(number(whole.draws)) <= set(example["pool"])


def test_pools_that_are_listed(device):
    """Of less than a 64th of the items, in two rows only."""
    observed, first_rank = rows(n_items=201, all_seen=198)
    first_rank[1], first_rank[2] = 1, 201 - np.diff(observed[0])[2] - 3
    check(corpus(device, n_items=201), observed, first_rank)


def test_rows_without_a_pool_stay_as_they_were(device):
    """No row writes into another, and none draws for ever."""
    bits = torch.full((3, 2), -1, dtype=torch.int32, device=device)
    sizes = torch.tensor([64, 0, 64], device=device)
    users = torch.arange(3, device=device)
    unwritten = torch.empty(1, dtype=torch.int32, device=device)
    draws = pool_draws.draw(bits, sizes, 64, DRAWS, DrawKey(1, 2, users), any_listed=False)
    assert ((draws[::2] >= 0) & (draws[::2] < 64)).all()
    assert (draws[1] == unwritten).all()


def test_nothing_observed_and_odd_layouts(device):
    vectors, table, bias = corpus(device)
    strided = torch.stack((vectors, vectors), dim=2)[:, :, 1]
    observed = np.zeros(ROWS + 1, np.int64), np.empty(0, np.int32)
    matrices = strided, table.T.contiguous().T, bias[:, None].repeat(1, 2)[:, 0]
    check(matrices, observed, np.full(ROWS, ITEMS - 1), top_m=0)


def test_more_wanted_than_there_are(device):
    check(corpus(device, n_items=40), *rows(n_items=40, all_seen=37), top_m=45)


def test_rows_with_equal_scores_are_done_again(device, redone):
    vectors, table, bias = corpus(device)
    vectors[3:5] = 0
    check((vectors, table, torch.zeros_like(bias)), *rows(), replace(TILE, capacity=16))
    assert redone
    assert sum(redone) >= 2


def test_rows_whose_sample_misled_are_done_again(device, redone):
    """The items sampled score higher than all others."""
    vectors, table, bias = corpus(device, n_items=128)
    tile = replace(TILE, sample=16, capacity=16)
    part = np.arange(16)
    bias[(part * 128 + ((part * 0x9E3779B1 & 0xFFFFFFFF) * 128 >> 32)) // 16] += 4096
    check((vectors, table, bias), *rows(n_items=128), tile)
    assert redone == [ROWS]


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-6)], ids=["fp32", "bf16"]
)
def test_scores_against_float64(device, dtype, bound):
    generator = torch.Generator().manual_seed(2)
    vectors = torch.randn(ROWS, HIDDEN, generator=generator).to(device, dtype)
    table = torch.randn(ITEMS, HIDDEN, generator=generator).to(device, dtype)
    bias = torch.randn(ITEMS, generator=generator).to(device)
    observed, first_rank = rows()
    found = select_projected(
        vectors, table, bias, observed, TOP, first_rank, 0, **KEYS, impl="triton", tile=TILE
    )
    truth = (vectors.double() @ table.double().T + bias).cpu()
    of_row = np.repeat(np.arange(ROWS), np.diff(observed[0]))
    of_observed = truth[of_row, observed[1].astype(np.int64)]
    of_threshold = truth.gather(1, found.threshold_item.cpu().long()[:, None])[:, 0]
    for result, expected in (
        (found.observed_scores, of_observed),
        (found.threshold_score, of_threshold),
    ):
        assert (result.cpu() - expected).norm() <= bound * expected.norm()
    # Ids are those of the exact scores: these lie further apart than rounding.
    chosen = select_unobserved(truth.float(), observed, TOP, first_rank)
    assert torch.equal(found.top_items.cpu(), chosen.top_items)
    assert torch.equal(found.threshold_item.cpu(), chosen.threshold_item)


@pytest.mark.filterwarnings("ignore:All-NaN slice")
def test_refuses_what_only_the_device_knows(device):
    (vectors, table, bias), (observed, first_rank) = corpus(device), rows()
    settings = {**KEYS, "impl": "triton", "tile": TILE}

    def run(vectors, table, first_rank):
        return select_projected(vectors, table, bias, observed, 2, first_rank, 3, **settings)

    with pytest.raises(ValueError, match=r"first_rank must lie in .* row 2"):
        run(vectors, table, np.where(np.arange(ROWS) == 2, ITEMS, first_rank))
    bad = vectors.clone()
    bad[4, 2] = torch.nan
    with pytest.raises(ValueError, match="row 4 is not"):
        run(bad, table, first_rank)
    table[7, 3] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        run(vectors, table, first_rank)


def tensors(device, n_rows=3, n_items=40):
    """(vectors, table, bias, indptr, items, first_rank, users)"""
    vectors, table, bias = corpus(device, n_items=n_items)
    (indptr, items), first_rank = rows(n_items=n_items)
    arrays = (
        indptr[: n_rows + 1],
        items[: indptr[n_rows]],
        first_rank[:n_rows],
        KEYS["users"][:n_rows],
    )
    of_rows = (torch.from_numpy(array).to(device) for array in arrays)
    return vectors[:n_rows], table, bias, *of_rows


FIELDS = json.dumps(asdict(TILE))


def selected_and_drawn(vectors, table, bias, indptr, items, first_rank, users):
    """By both operations, of which the second takes what the first gives."""
    operations, n_items = torch.ops.pdrec_fast, len(table)
    selection = vectors, table, bias, indptr, items, first_rank, TOP, FIELDS
    *found, pool, state, scores = operations.select_projected(*selection)
    sizes = n_items - indptr.diff() - first_rank
    drawing = pool, sizes, n_items, DRAWS, -5, 2, users, True
    return *found, pool, state, scores, operations.pool_draws(*drawing)


def test_custom_op_contracts(device):
    operations = torch.ops.pdrec_fast
    *selection, first_rank, users = tensors(device)
    arguments = *selection, first_rank, TOP, FIELDS
    torch.library.opcheck(operations.select_projected.default, arguments)
    *_, pool, state, _, _ = selected_and_drawn(*selection, first_rank, users)
    assert not state.any()
    sizes = len(selection[1]) - selection[3].diff() - first_rank
    arguments = pool, sizes, len(selection[1]), DRAWS, -5, 2, users, True
    torch.library.opcheck(operations.pool_draws.default, arguments)


def test_compiles_without_a_graph_break(device):
    compiled = torch.compile(selected_and_drawn, fullgraph=True, backend="aot_eager")
    arguments = tensors(device)
    for result, truth in zip(compiled(*arguments), selected_and_drawn(*arguments), strict=True):
        assert torch.equal(result, truth)


def test_waits_for_the_device_once(monkeypatch):
    """The meta device has no numbers to read: every other wait would be an error."""
    waits = []

    def read(codes):
        waits.append(codes)
        return [0] * len(codes)

    monkeypatch.setattr(torch.Tensor, "tolist", read)
    n_items = 1 << 14  # a smaller corpus is for a library's product and sort
    vectors, table, bias, indptr, items, first_rank, users = tensors("meta", ROWS, n_items)
    keys = {"seed": 2**63, "users": users}
    observed = indptr, items
    found = select_projected(vectors, table, bias, observed, TOP, first_rank, DRAWS, **keys)
    assert len(waits) == 1
    shapes = (ROWS, TOP), (ROWS,), (ROWS,), (len(items),), (ROWS, DRAWS)
    dtypes = torch.int32, torch.float32, torch.int32, torch.float32, torch.int32
    for result, shape, dtype in zip(found, shapes, dtypes, strict=True):
        assert (result.shape, result.dtype, result.device.type) == (shape, dtype, "meta")


COMPILE = """
import sys
import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from pdrec_fast.kernels.triton.selection import _pool_draws as pool_draws
from pdrec_fast.kernels.triton.selection import _score_tiles as score_tiles
from pdrec_fast.kernels.triton.selection import select_projected as kernels

name, dtype, hidden = sys.argv[1], sys.argv[2], int(sys.argv[3])
modules = kernels, score_tiles, pool_draws
kernel = next(getattr(module, name) for module in modules if hasattr(module, name))
tile = score_tiles.default_tile(
    hidden, {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype], 1 << 20
)
rows, samples = (1, tile.sample) if name == "_bracket_kernel" else (tile.rows, 0)
constants = {
    "HIDDEN": hidden, "PRECISION": tile.precision, "BLOCK_ROWS": rows, "BLOCK_ITEMS": tile.items,
    "BLOCK_DEPTH": tile.depth, "CAPACITY": tile.capacity, "BLOCK_SAMPLES": samples,
    "BLOCK_PAIRS": 16, "BLOCK": 1024, "BLOCKS": 64,
}
types = dict.fromkeys(("vectors_ptr", "table_ptr"), f"*{dtype}")
floats = "bias", "upper", "lower", "least", "best", "out", "scores"
types |= dict.fromkeys((f"{name}_ptr" for name in floats), "*fp32")
types |= dict.fromkeys(("keys_ptr", "rows_ptr", "users_ptr"), "*i64") | {"seed": "i64"}
names = [parameter.name for parameter in kernel.params]
types = {
    name: "constexpr" if name in constants else types.get(name, "*i32" if "_ptr" in name else "i32")
    for name in names
}
values = {(names.index(name),): value for name, value in constants.items() if name in names}
aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if "_ptr" in name}
options = {"num_warps": tile.n_warps, "num_stages": tile.n_stages, "maxnreg": tile.max_registers}
source = ASTSource(kernel, types, values, aligned)
compiled = compile(source, target=GPUTarget("cuda", 90, 32), options=options)
print("shared", compiled.metadata.shared, "wgmma" in compiled.asm["ptx"])
open(sys.argv[4], "wb").write(compiled.asm["cubin"])
"""


@pytest.mark.parametrize(
    ("kernel", "dtype", "hidden"),
    [
        ("_count_kernel", "bf16", 256),
        ("_count_kernel", "bf16", 1000),
        ("_collect_kernel", "bf16", 256),
        ("_collect_kernel", "fp32", 100),
        ("_bracket_kernel", "fp32", 256),
        ("_draw_kernel", "fp32", 256),
        ("_list_kernel", "fp32", 256),
    ],
)
def test_compiles_for_hopper(kernel, dtype, hidden, tmp_path):
    """With the default tiles nothing spills, bfloat16 runs on tensor cores, and two programs fit on
    a multiprocessor."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    cubin = tmp_path / "kernel.cubin"
    result = subprocess.run(
        [sys.executable, "-c", COMPILE, kernel, dtype, str(hidden), str(cubin)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    shared, tensor_cores = re.search(r"shared (\d+) (\w+)", result.stdout).groups()
    if dtype == "bf16":
        assert tensor_cores == "True"
        assert int(shared) <= (113 if hidden <= 256 else 226) * 1024
    usage = resource_usage(cubin)
    if usage is not None:
        assert "STACK:0 " in usage


def resource_usage(cubin):
    """What cuobjdump says, None where Triton brings none."""
    import triton

    tool = os.path.join(os.path.dirname(triton.__file__), "backends/nvidia/bin/cuobjdump")
    if not os.path.exists(tool):
        return None
    return subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True).stdout
