"""What every fitted model of this package can be asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from pdrec_fast.checks import check_ordered, check_whole
from pdrec_fast.data import Interactions
from pdrec_fast.errors import DataError, NonFiniteScoresError
from pdrec_fast.evaluation import Scorer, prepared
from pdrec_fast.fitting.bundle import digest_of
from pdrec_fast.isolation import own_settings
from pdrec_fast.ops.selection.project import rows_per_block
from pdrec_fast.ops.selection.select_unobserved import top_items
from pdrec_fast.part_jobs import check_rank
from pdrec_fast.recommending.best import best_items, pair_scores
from pdrec_fast.recommending.filters import Filter, item_list
from pdrec_fast.recommending.parts import check_path, write_in_parts
from pdrec_fast.recommending.queries import Unknown, as_list, queries
from pdrec_fast.recommending.recommendations import Recommendations


class Recommender:
    """``recommend``, ``similar_items`` and ``scores_for`` of a scorer that keeps its data.

    A subclass has ``scores`` (see ``Scorer``), ``trained_items`` (bool [n_items], or None) and the
    three methods that raise ``NotImplementedError`` here.
    """

    trained_items: np.ndarray | None

    def interactions(self) -> Interactions:
        """The data whose items the model numbers; raises NotFittedError before ``fit``."""
        raise NotImplementedError

    def contents(self) -> Any:
        """JSON values, and tensors by file: what the model consists of."""
        raise NotImplementedError

    def known_items(self) -> np.ndarray | None:
        """bool [n_items], the items of which the model knows something; None for all."""
        return self.trained_items

    def item_directions(self) -> torch.Tensor:
        """float32 [n_items, H], unit vectors whose products say how alike items are."""
        raise NotImplementedError

    @own_settings()
    @torch.no_grad()
    def recommend(
        self,
        users: Any = None,
        k: int = 10,
        *,
        history: Any = None,
        times: Any = None,
        data: Interactions | None = None,
        items: Any = None,
        exclude: Any = None,
        filter_seen: bool = True,
        unknown: Unknown = "raise",
        block_size: int | None = None,
    ) -> Recommendations:
        """The ``k`` items that people would interact with next.

        Args:
            users: raw user ids, one or [B]; None: everybody of the data, or those whose
                ``history`` is given.
            k: at most the number of items (of two domains: of the target's, which alone are
                recommended).
            history: raw item ids, oldest first: a list for one person, or [B] lists. Without
                ``users`` that is all that is known of these people; with them each continues what
                the data have of that user. Items that the model has never seen are left out, and a
                warning counts them.
            times: of the history, alike, in the unit of the data's timestamps; a history is then
                put in their order. Without them it continues a user's records at the latest time
                of the data.
            data: newer interactions, in place of those of ``fit``; users and items are matched by
                raw id. Records of items that the model has never seen are left out, and a warning
                counts them.
            items: raw ids, the only ones that may be recommended: a list for all, or [B] lists.
            exclude: raw ids that may not be: a list for all, or [B] lists.
            filter_seen: leave out items that the person has interacted with.
            unknown: people who are not in the data, or of whose items the model was trained on
                none, and of whom it therefore knows nothing: ``"raise"`` a DataError, ``"skip"``
                them (their rows are empty), or give them the items with the most records,
                ``"popular"``, marked in ``fallback``.
            block_size: people scored at once; memory is ``block_size`` x items floats. None takes
                as many as make 16 MiB (512 MiB on a GPU).

        Returns:
            ``Recommendations``, which ``ids, scores = ...`` takes apart: raw item ids [B, k] and
            scores float32 [B, k], best first; ties to the lower item. Where fewer than k items may
            be recommended, the ids end with None and the scores with -inf.

        Raises:
            ValueError: an argument out of its range, or lists of unequal lengths.
            TypeError: an argument of another kind; users or a history as a set, which has no order.
            DataError: see ``unknown``; or an allow-list without one known item.
            NonFiniteScoresError: the model's scores for somebody are NaN.
        """
        catalogue = self._checked(k)
        people = queries(catalogue, self.known_items(), users, history, times, data, unknown)
        rules = _filter(catalogue, items, exclude, filter_seen, len(people))
        popularity = self.popularity() if unknown == "popular" else None
        scorer = cast("Scorer", self)
        return best_items(scorer, catalogue, people, rules, k, popularity, block_size)

    @own_settings()
    def recommend_to_file(
        self,
        path: str | Path,
        users: Any = None,
        k: int = 10,
        *,
        data: Interactions | None = None,
        items: Any = None,
        exclude: Any = None,
        filter_seen: bool = True,
        unknown: Unknown = "raise",
        block_size: int | None = None,
        part_size: int = 1 << 16,
        rank: int | None = None,
        world: int | None = None,
        progress: bool = True,
    ) -> bool:
        """``recommend`` for many people, into one table: user, item, score, rank, fallback.

        It is written in parts, to a hidden folder beside ``path``, and put together at the end. A
        job that was stopped goes on when the same call is made again. Several processes that make
        the same call share the parts (``docs/workers.md``), and the last one puts them together.
        Memory does not grow with the number of users, beyond what the data themselves take.

        Args:
            path: a ``.parquet`` or ``.csv`` file, replaced once everything is there.
            users: raw ids; None: everybody of the data.
            items, exclude: raw ids, for all.
            part_size: users of a part.
            rank, world: do only the parts of this one of ``world`` processes, from 0 on, and do not
                wait for the others; None: any part that nobody has, until all are there.
            progress: show a bar of the parts.

        Returns:
            Whether the file is there; False where other ranks have yet to do their parts.

        Raises:
            CheckpointError: parts of another job lie beside ``path``, or a part is damaged.
            MissingExtraError: a ``.parquet`` file without pyarrow.
            DataError, ValueError, TypeError: see ``recommend``; all before anything is written.
        """
        path = Path(path)
        check_path(path)
        check_whole(part_size=part_size)
        if part_size < 1:
            raise ValueError(f"part_size must be at least 1, got {part_size}")
        check_rank(rank, world)
        catalogue = self._checked(k)
        people = queries(catalogue, self.known_items(), users, data=data, unknown=unknown)
        rules = _filter(catalogue, items, exclude, filter_seen, len(people))
        if rules.allowed is not None or rules.blocked is not None:
            raise ValueError("items and exclude must each be one list, for all")
        popularity = self.popularity() if unknown == "popular" else None
        scorer = prepared(cast("Scorer", self))

        def recommended(part: slice) -> Recommendations:
            some = people[part]
            return best_items(scorer, catalogue, some, rules, k, popularity, block_size)

        names = json.dumps([str(name) for name in people.names]).encode()
        description = {
            "model": digest_of(self.contents()),
            "data": None if data is None else data.fingerprint(),
            "users": hashlib.sha256(names).hexdigest()[:16],
            "never": hashlib.sha256(rules.never.tobytes()).hexdigest()[:16],
            "k": k,
            "filter_seen": filter_seen,
            "unknown": unknown,
        }
        return write_in_parts(
            path, description, len(people), part_size, recommended, rank, world, progress
        )

    def _checked(self, k: int) -> Interactions:
        """The catalogue, from which ``k`` items can be taken."""
        catalogue = self.interactions()
        check_whole(k=k)
        if not 1 <= k <= catalogue.n_targets:
            raise ValueError(
                f"k must lie in 1 .. {catalogue.n_targets} (the number of items), got {k}"
            )
        return catalogue

    def popularity(self) -> np.ndarray:
        """float32 [n_items], records of each item in the model's data; -inf of an item that the
        model was not trained on."""
        catalogue = self.interactions()
        counts = np.bincount(catalogue.items, minlength=catalogue.n_items).astype(np.float32)
        if self.trained_items is not None:
            counts[~self.trained_items] = -np.inf
        return counts

    @own_settings()
    @torch.no_grad()
    def similar_items(self, items: Any, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` items whose vectors point most nearly in the same direction.

        Args:
            items: raw item ids, one or [B].
            k: at most the number of items that the model knows, less one.

        Returns:
            (raw item ids [B, k], cosines float32 [B, k]), best first, never the item itself.

        Raises:
            DataError: an unknown item, or one of which the model knows nothing.
            ValueError: ``k`` out of its range.
            TypeError: ``k`` is no whole number, or the items are a set, which has no order.
        """
        catalogue = self.interactions()
        asked = catalogue.item_index(items)
        known = self.known_items()
        if known is None:
            known = np.ones(catalogue.n_items, dtype=bool)
        cold = catalogue.item_ids[asked[~known[asked]]]
        if len(cold):
            raise DataError(
                f"item {str(cold[0])!r} has no record that the model was trained on: nothing is "
                "known of what it is like"
            )
        check_whole(k=k)
        most = int(known.sum()) - 1
        if not 1 <= k <= most:
            raise ValueError(f"k must lie in 1 .. {most} (the other known items), got {k}")
        directions = self.item_directions()
        at = torch.from_numpy(asked).to(directions.device)
        hidden = torch.from_numpy(~known).to(directions.device)
        ids = np.empty((len(asked), k), dtype=catalogue.item_ids.dtype)
        found = np.empty((len(asked), k), dtype=np.float32)
        step = rows_per_block(catalogue.n_items, on_gpu=directions.device.type != "cpu")
        for start in range(0, len(asked), step):
            own = at[start : start + step]
            cosines = (directions[own] @ directions.T).masked_fill_(hidden, -torch.inf)
            cosines[torch.arange(len(own), device=own.device), own] = -torch.inf
            best = top_items(cosines, k)
            ids[start : start + step] = catalogue.item_ids[best.cpu().numpy()]
            found[start : start + step] = cosines.gather(1, best).cpu().numpy()
        return ids, found

    @own_settings()
    @torch.no_grad()
    def scores_for(
        self, pairs: Any, *, data: Interactions | None = None, unknown: Unknown = "raise"
    ) -> np.ndarray:
        """Scores of given (user, item) pairs, for a second stage that ranks candidates.

        Args:
            pairs: P pairs of raw ids, an array [P, 2], or a frame, Arrow table or dict with the
                columns ``user`` and ``item`` (or ``user_id`` and ``item_id``).
            data: newer interactions, as in ``recommend``.
            unknown: a pair whose user or item is unknown: ``"raise"``, or ``"skip"`` it (NaN).

        Returns:
            float32 [P]: of a user, what ``recommend`` ranks by.

        Raises:
            DataError, NonFiniteScoresError, ValueError, TypeError: see ``recommend``.
        """
        if unknown == "popular":
            raise ValueError("unknown='popular' gives no scores: choose 'raise' or 'skip'")
        catalogue = self.interactions()
        users, items = _columns(pairs)
        if len(users) != len(items):
            raise ValueError(f"pairs have {len(users)} users and {len(items)} items: give one each")
        place: dict[Any, int] = {}
        rows = np.array([place.setdefault(user, len(place)) for user in users], dtype=np.int64)
        people = queries(catalogue, self.known_items(), list(place), data=data, unknown=unknown)
        found = catalogue.find_items(items) if unknown == "skip" else catalogue.item_index(items)
        scores = np.full(len(rows), np.nan, dtype=np.float32)
        order = np.argsort(rows, kind="stable")
        order = order[(found[order] >= 0) & people.known[rows[order]]]
        scorer = cast("Scorer", self)
        try:
            scores[order] = pair_scores(scorer, people.histories, rows[order], found[order])
        except NonFiniteScoresError as error:
            user = people.names[cast("int", error.row)]
            raise NonFiniteScoresError.of_user(self, user) from None
        return scores


def _filter(
    catalogue: Interactions, items: Any, exclude: Any, filter_seen: bool, n_people: int
) -> Filter:
    allowed = item_list(catalogue, items, "items", n_people)
    blocked = item_list(catalogue, exclude, "exclude", n_people)
    return Filter.of(catalogue, allowed, blocked, filter_seen)


def _columns(pairs: Any) -> tuple[list[Any], list[Any]]:
    names = list(pairs) if isinstance(pairs, Mapping) else getattr(pairs, "column_names", None)
    if names is None and hasattr(pairs, "columns"):
        names = list(pairs.columns)
    if names is not None:
        for user, item in (("user", "item"), ("user_id", "item_id")):
            if user in names and item in names:
                return as_list(pairs[user]), as_list(pairs[item])
        raise ValueError(
            f"pairs need the columns user and item (or user_id and item_id); there are {names}"
        )
    check_ordered(pairs=pairs)
    rows = as_list(pairs)
    wrong = [row for row in rows if not isinstance(row, (list, tuple)) or len(row) != 2]
    if wrong:
        raise ValueError(f"pairs must be (user, item) pairs, got {wrong[0]!r}")
    return [row[0] for row in rows], [row[1] for row in rows]
