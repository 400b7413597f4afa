"""Items that the same users have, put into one category: k-means over spectral item vectors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from pdrec_fast.diffusion.inputs import SparseRows
from pdrec_fast.diffusion.item_matrix import as_torch, transposed
from pdrec_fast.ragged import row_indices

_POWER_STEPS = 8
_SPARE = 8  # more directions than are asked for, so that the last of these is right too
_LLOYD_STEPS = 50


def item_vectors(rows: SparseRows, width: int, generator: torch.Generator) -> torch.Tensor:
    """What items are like by who has them: float32 [n_items, width].

    The leading left singular vectors of the items x users matrix whose entry of item i and user u
    is ``x_ui / sqrt(n_i n_u)``, n being numbers of interactions, each times its singular value; by
    subspace iteration. A column beyond the matrix's size is 0.

    Args:
        rows: the users' interaction vectors; only where they are not 0 counts.
        generator: of the start, on the CPU.
    """
    n_users, n_items = len(rows), rows.n_items
    users = row_indices(rows.indptr)
    of_user = np.diff(rows.indptr)[users]
    of_item = np.bincount(rows.items, minlength=n_items)[rows.items]
    scaled = replace(rows, values=(1 / np.sqrt(of_user * of_item)).astype(np.float32))
    matrix, adjoint = as_torch(scaled), as_torch(transposed(scaled))
    size = min(width + _SPARE, n_items, n_users)
    basis = torch.randn(n_items, size, dtype=torch.float32, generator=generator)
    for _ in range(_POWER_STEPS):
        basis = torch.linalg.qr(adjoint @ (matrix @ basis))[0]
    _, sizes, right = torch.linalg.svd(matrix @ basis, full_matrices=False)
    found = (basis @ right.T) * sizes
    vectors = torch.zeros(n_items, width, dtype=torch.float32)
    vectors[:, : min(width, size)] = found[:, :width]
    return vectors


def k_means(vectors: torch.Tensor, n_clusters: int, generator: torch.Generator) -> torch.Tensor:
    """The cluster of every vector, int64 [n]: Lloyd's algorithm from a k-means++ start.

    A cluster that loses all its vectors takes the one farthest from its own centre. Clusters are
    numbered by size, the largest first.

    Args:
        vectors: float [n, width], n at least ``n_clusters``.
        generator: of the start, on the CPU.
    """
    centres = vectors[torch.randint(len(vectors), (1,), generator=generator)]
    while len(centres) < n_clusters:
        far = torch.cdist(vectors, centres).min(dim=1).values.square()
        if not far.any():  # as many different vectors as there are centres
            far = torch.ones_like(far)
        centres = torch.cat([centres, vectors[torch.multinomial(far, 1, generator=generator)]])
    nearest = torch.full((len(vectors),), -1)
    for _ in range(_LLOYD_STEPS):
        distances, found = torch.cdist(vectors, centres).min(dim=1)
        for cluster in range(n_clusters):
            if not (found == cluster).any():
                found[int(distances.argmax())] = cluster
                distances[int(distances.argmax())] = -1
        if torch.equal(found, nearest):
            break
        nearest = found
        centres = torch.stack([vectors[nearest == c].mean(dim=0) for c in range(n_clusters)])
    sizes = torch.bincount(nearest, minlength=n_clusters)
    number = torch.empty_like(sizes)
    number[torch.argsort(-sizes, stable=True)] = torch.arange(n_clusters)
    return number[nearest]
