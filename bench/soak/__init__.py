"""Hours of daily work in one process, and whether its memory, descriptors and threads stay flat."""

import os

# torch keeps the compiled products of a thousand shapes, twice, and every day brings others: some
# 560 MiB until both are full, in which a leak would not be seen. Here, before torch is imported.
for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(name, "64")
