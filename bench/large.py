"""What it takes to make a store of N generated records, more than memory may hold.

    python -m bench.large --records 20000000 --parts 8 --memory 1GB --out FOLDER

writes FOLDER/records/*.parquet, runs ``pdrec-fast prepare`` on them in a process of its own, opens
the store in another, and prints seconds and the largest resident memory of each.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

_OPEN = (
    "import resource, sys; import pdrec_fast as pf\n"
    "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
    "data = pf.Interactions.from_store(sys.argv[1])\n"
    "print(data, f'; importing the package took {before / 2**10:.0f} MiB of the memory')"
)


def write_records(
    folder: Path, n_records: int, n_parts: int, n_users: int, n_items: int, seed: int = 0
) -> None:
    """Write records in Parquet parts, one after the other: users by chance, items by Zipf's law,
    times of one year.

    Args:
        folder: created; parts there are replaced.
    """
    import pyarrow
    import pyarrow.parquet

    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    shares = np.cumsum(1 / np.arange(1, n_items + 1))
    names = random.permutation(n_items)  # so that an id tells nothing of how popular its item is
    for part, size in enumerate(np.diff(np.linspace(0, n_records, n_parts + 1).astype(int))):
        ranks = np.searchsorted(shares, random.random(size) * shares[-1])
        table = pyarrow.table(
            {
                "user_id": random.integers(0, n_users, size),
                "item_id": names[ranks],
                "timestamp": random.integers(1_700_000_000, 1_731_536_000, size),
            }
        )
        pyarrow.parquet.write_table(table, folder / f"part-{part:05}.parquet")


def measured(words: list[str]) -> str:
    """Run a process; its output, seconds and largest resident memory as text."""
    start = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        output = process.stdout.read().strip()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}: exit status {process.returncode}")
    seconds = time.perf_counter() - start
    return f"{output}\n  {seconds:.1f} s, at most {usage.ru_maxrss / 2**10:.0f} MiB resident"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--records", type=int, default=20_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--parts", type=int, default=8, help="of the files")
    parser.add_argument("--store-parts", type=int, default=1)
    parser.add_argument("--memory", default="1GB", help="that DuckDB may use")
    options = parser.parse_args()
    records, store = options.out / "records", options.out / "store"
    # A process counts the memory of the one that started it: this one must stay small.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        arguments = options.records, options.parts, options.users, options.items
        pool.submit(write_records, records, *arguments).result()
    size = sum(file.stat().st_size for file in records.iterdir()) / 2**20
    print(f"{options.records:,} records, {size:.0f} MiB of Parquet", flush=True)
    command = [sys.executable, "-m", "pdrec_fast", "prepare", "--data", str(records)]
    command += ["--out", str(store), "--memory", options.memory]
    command += ["--parts", str(options.store_parts), "--threads", "1"]
    print(measured(command), flush=True)
    print(measured([sys.executable, "-c", _OPEN, str(store)]))


if __name__ == "__main__":
    main()
