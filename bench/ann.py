"""What an index of items costs and finds, against exact products, on one thread.

On synthetic item matrices, and on that of an export, whose queries are the vectors of its users::

    python -m bench.ann --sizes 10000,100000,1000000 --out ann.jsonl
    python -m bench.ann --sizes "" --export DIR --run RUN --out ann.jsonl

A line of JSON each has the seconds of building, bytes of the index beside the matrix, milliseconds
of a query alone and of one among 64, and recall@k. Synthetic items lie around 1,000 directions, as
items of a trained model do; with none their neighbours would be as far as any other item.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import torch

import pdrec_fast as pf
from bench.machine import environment
from bench.target import CPU
from pdrec_fast.export.parts import Vectors, model_parts

Floats = npt.NDArray[np.float32]
WIDTH, CENTRES, N_QUERIES, BATCH = 128, 1000, 512, 64
KINDS = ("hnsw", "ivfpq")


def synthetic(n_items: int, seed: int = 0) -> tuple[Floats, Floats]:
    """(items [n_items, 128], queries [512, 128]), both of unit length, around common centres."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((CENTRES, WIDTH), dtype=np.float32)

    def around(n: int) -> Floats:
        made = centres[rng.integers(CENTRES, size=n)]
        made += 0.7 * rng.standard_normal((n, WIDTH), dtype=np.float32)
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        return made

    return around(n_items), around(N_QUERIES)


def of_export(folder: Path, run: Path) -> tuple[Floats, Floats]:
    """An export's item matrix, and the vectors of 512 users of its run."""
    model = pf.PDRec.load(run / "model", device="cpu")
    fusion = bool(json.loads((folder / "card.json").read_text())["shares"])
    vectors = Vectors(model_parts(model, fusion=fusion))
    assert model.data is not None
    data = model.data
    chosen = np.linspace(0, data.n_users - 1, N_QUERIES).astype(np.int64)
    rows = [data.items[data.indptr[u] : data.indptr[u + 1]] for u in chosen]
    ids = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.int64)
    for padded, items in zip(ids, rows, strict=True):
        padded[: len(items)] = torch.from_numpy(items.astype(np.int64)) + 1
    times = torch.zeros(ids.shape, dtype=torch.float64)
    with torch.no_grad():
        found = vectors(ids, times).numpy()
    return np.load(folder / "items.npy"), np.ascontiguousarray(found)


def measured(
    matrix: Floats, queries: Floats, k: int, kinds: Sequence[str], recall: float
) -> Iterator[dict[str, Any]]:
    """A record of every kind of index, the exact one first."""
    half = len(queries) // 2  # the effort is chosen on others than those measured
    tuned, asked = queries[:half], queries[half:]
    for kind in ("flat", *kinds):
        started = time.perf_counter()
        index = pf.ItemIndex.build(
            matrix,
            kind=kind,  # type: ignore[arg-type]
            recall=recall,
            k=k,
            queries=tuned,
            threads=1,
        )
        record = {"kind": kind, "build_s": round(time.perf_counter() - started, 2)}
        record |= {
            "bytes": 0 if index.index is None else len(faiss.serialize_index(index.index)),
            "effort": index.effort,
            "recall": round(index.recall_at(asked, k), 4),
        }
        yield record | _times(lambda some, index=index: index.search(some, k), asked)


def _times(call: Callable[[Floats], Any], asked: Floats) -> dict[str, float]:
    """Medians, in milliseconds a query."""
    call(asked[:1])
    found = {}
    for name, size in (("alone_ms", 1), ("among_64_ms", BATCH)):
        seconds = []
        for start in range(0, len(asked) - size + 1, max(size, len(asked) // 32)):
            began = time.perf_counter()
            call(asked[start : start + size])
            seconds.append((time.perf_counter() - began) / size)
        found[name] = round(1e3 * float(np.median(seconds)), 4)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.ann", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--sizes", default="10000,100000,1000000", help="numbers of items")
    parser.add_argument("--export", type=Path, help="directory of an export")
    parser.add_argument("--run", type=Path, help="the run that it was made of")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("-k", type=int, default=100)
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    if (options.export is None) != (options.run is None):
        parser.error("--export and --run belong together")
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    with open(options.out, "a", encoding="utf-8") as stream:
        for size in (int(size) for size in options.sizes.split(",") if size):
            _write(stream, f"synthetic {size:,}", synthetic(size), options)
        if options.export:
            _write(stream, options.export.name, of_export(options.export, options.run), options)


def _write(stream: Any, name: str, made: tuple[Floats, Floats], options: Any) -> None:
    matrix, queries = made
    about = {"items": len(matrix), "width": matrix.shape[1], "k": options.k}
    for record in measured(matrix, queries, options.k, options.kinds.split(","), options.recall):
        line = {"matrix": name, **about, **record, "environment": environment(1, CPU)}
        stream.write(json.dumps(line) + "\n")
        stream.flush()
        print({key: value for key, value in line.items() if key != "environment"}, flush=True)


if __name__ == "__main__":
    main()
