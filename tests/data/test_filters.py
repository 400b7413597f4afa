import datetime as dt

import numpy as np
import pytest

from pdrec_fast.data import Interactions
from pdrec_fast.data.domains import read_domains
from pdrec_fast.errors import DataError

JANUARY = 1_577_836_800  # 2020-01-01


def items(data):
    return data.item_ids[data.items].tolist()


def test_ratings_below_the_least_are_left_out(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("user_id,item_id,rating,stars,timestamp\n1,a,5,1,1\n1,b,3.5,2,2\n1,c,4,3,3\n")
    assert items(Interactions.from_file(path)) == ["a", "b", "c"]
    assert items(Interactions.from_file(path, min_rating=4)) == ["a", "c"]
    assert items(Interactions.from_file(path, rating="stars", min_rating=2)) == ["b", "c"]
    quoted = tmp_path / "q.csv"
    quoted.write_text(path.read_text().replace(",a,", ',"a",'))
    assert items(Interactions.from_file(quoted, min_rating=4)) == ["a", "c"]
    arrays = [1, 1], ["a", "b"], [1, 2]
    assert items(Interactions.from_arrays(*arrays, ratings=[1, 4], min_rating=4)) == ["b"]


@pytest.mark.parametrize("rating", ["", "nan", "good"])
@pytest.mark.parametrize("mark", ["", '"'])
def test_unusable_ratings(tmp_path, rating, mark):
    path = tmp_path / "d.csv"
    path.write_text(f"user_id,item_id,rating\n1,{mark}a{mark},5\n1,b,{rating}\n")
    with pytest.raises(DataError, match=rf"line 3, column 'rating': rating '{rating}' is not"):
        Interactions.from_file(path, min_rating=4)


@pytest.mark.parametrize("factor", [1, 10**3, 10**6, 10**9])
@pytest.mark.parametrize(
    ("since", "until"),
    [
        ("2020-01-01", dt.date(2020, 1, 2)),
        (np.datetime64("2020-01-01"), "2020-01-02T01:00+01:00"),
        (dt.datetime(2020, 1, 1), dt.datetime(2020, 1, 2, tzinfo=dt.timezone.utc)),
    ],
)
def test_a_range_of_dates_is_half_open(factor, since, until):
    times = np.array([-1, 0, 43_200 * factor, 86_400 * factor - 1, 86_400 * factor])
    arrays = [1] * 5, ["before", "first", "within", "last", "after"], times + JANUARY * factor
    found = items(Interactions.from_arrays(*arrays, since=since, until=until))
    assert found == ["first", "within", "last"]
    assert items(Interactions.from_arrays(*arrays, until=JANUARY * factor)) == ["before"]


def test_a_range_before_repeats_and_minima():
    users, times = [1, 1, 1, 2, 2], [1, 2, 3, 2, 1]
    data = Interactions.from_arrays(
        users, [7, 7, 8, 7, 8], times, since="2", repeats="first", min_user=2
    )
    assert (items(data), data.user_ids.tolist()) == ([7, 8], [1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"since": "soon"}, "since='soon' is neither a number"),
        ({"until": float("nan")}, "until=nan is neither a number"),
        ({"since": 5, "until": 5}, "need since < until, got 5 and 5"),
        ({"since": "2020-01-01"}, r"since=2020-01-01 is a date, but the timestamps, 1\.0 to 2\.0"),
        ({"min_rating": float("inf")}, "min_rating must be a finite number, got inf"),
        ({"min_rating": "4"}, "min_rating must be a finite number, got '4'"),
        ({"min_rating": 4}, "ratings= and min_rating= need each other"),
        ({"limit_users": 0}, "limit_users must be an integer of at least 1, got 0"),
        ({"min_user": True}, "min_user must be an integer of at least 1, got True"),
        ({"since": 3}, r"none of 2 records is left with .*since=3 .* run from 1\.0 to 2\.0\)"),
    ],
)
def test_filters_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        Interactions.from_arrays([1, 1], [1, 2], [1, 2], **options)


def test_filters_that_lack_a_column(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("user_id,item_id\n1,2\n")
    with pytest.raises(DataError, match=r"no column 'rating'.* Pass rating="):
        Interactions.from_file(path, min_rating=1)
    with pytest.raises(ValueError, match="rating='r' has no effect without min_rating="):
        Interactions.from_file(path, rating="r")
    with (
        pytest.warns(UserWarning, match="no timestamps"),
        pytest.raises(DataError, match=r"since=5 needs timestamps, and there are none"),
    ):
        Interactions.from_file(path, since=5)


class TestLimitUsers:
    def arrays(self):
        return np.repeat(np.arange(100), 2), np.tile([1, 2], 100), np.arange(200)

    def test_the_same_sample_whatever_the_order_of_records(self):
        users, item_ids, times = self.arrays()
        data = Interactions.from_arrays(users, item_ids, times, limit_users=10)
        other = Interactions.from_arrays(users[::-1], item_ids[::-1], times[::-1], limit_users=10)
        assert data.n_users == 10
        assert data.n_records == 20
        assert data.fingerprint() == other.fingerprint()
        fewer = Interactions.from_arrays(users, item_ids, times, limit_users=5)
        assert set(fewer.user_ids) < set(data.user_ids)
        assert np.ptp(data.user_ids) > 30  # of all, not the first
        assert Interactions.from_arrays(users, item_ids, times, limit_users=100).n_users == 100

    def test_minima_hold_for_the_sample(self):
        users, item_ids, times = self.arrays()
        item_ids = np.where(users % 2, item_ids, users + 10)  # half of the users have an own item
        data = Interactions.from_arrays(users, item_ids, times, limit_users=20, min_item=3)
        assert 0 < data.n_users <= 20
        assert np.bincount(data.items).min() >= 3

    def test_the_source_domain_has_the_users_of_the_target_domain(self, tmp_path):
        paths = tmp_path / "a.csv", tmp_path / "b.csv"
        for path in paths:
            rows = (f"{user},{path.stem}{user % 7},{user}\n" for user in range(50))
            path.write_text("user_id,item_id,timestamp\n" + "".join(rows))
        mixed = read_domains(*paths, limit_users=5)
        target = read_domains(paths[0], None, limit_users=5)
        assert mixed.user_ids.tolist() == target.user_ids.tolist()
        assert mixed.n_records == 10
        assert mixed.of_users([0, 3]).n_records == 4
        assert mixed.of_users([0]).n_targets == 1


def test_times_that_are_mostly_one_are_told():
    users, item_ids = np.repeat([1, 2, 3], 10), np.arange(30)
    with pytest.warns(UserWarning, match=r"27 of 30 records .* as user 1 has at 7\.0"):
        Interactions.from_arrays(users, item_ids, np.full(30, 7))
    days = np.arange(30) // 4  # ties of days are usual: no warning, which would fail
    assert Interactions.from_arrays(users, item_ids, days).n_records == 30
