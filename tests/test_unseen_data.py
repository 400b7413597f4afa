"""Files as users have them, through ``run``, ``recommend`` and ``evaluate``."""

import csv
import json
import re

import numpy as np
import pytest

from tests.test_pipeline import FAST, command

HEADER = ("user_id", "item_id", "timestamp")


def records(n_users=40, n_items=150, seed=0):
    """Made-up (user, item, time), five to ten of each user, in no order of time."""
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(n_users), rng.integers(5, 11, n_users))
    items = rng.integers(n_items, size=len(users))
    times = 1_600_000_000 + rng.permutation(len(users))
    return list(zip(users.tolist(), items.tolist(), times.tolist(), strict=True))


@pytest.fixture
def write(tmp_path):
    def write(name, rows, header=HEADER):
        path = tmp_path / name
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, delimiter="," if path.suffix == ".csv" else "\t")
            writer.writerows([header, *rows])
        return path

    return write


def run(data, tmp_path, *options):
    options = (*options, "--threads", 1, "--quiet", *FAST)
    return command("run", "--data", data, "--out", tmp_path / "out", *options)


def check(result, tmp_path, users, items):
    """A finished run is tested again to the same numbers, and recommends to ``users`` of the file's
    ``items``; gives its metrics."""
    assert result.returncode == 0, result.stderr
    out = tmp_path / "out"
    metrics = json.loads((out / "metrics.json").read_text())
    again = command("evaluate", "--run", out, "--json", "--threads", 1)
    assert json.loads(again.stdout) == metrics["protocols"]
    named = [part for user in users for part in ("--user", user)]
    listed = command("recommend", "--run", out, *named, "-k", 3, "--format", "json")
    assert listed.returncode == 0, listed.stderr
    rows = json.loads(listed.stdout)
    assert [str(row["user"]) for row in rows] == [str(user) for user in users for _ in range(3)]
    assert {row["item"] for row in rows} <= set(items)
    return metrics


def test_string_ids(write, tmp_path):
    rows = [(f"u{user}", f"i{item}", when) for user, item, when in records()]
    result = run(write("clicks.csv", rows), tmp_path)
    metrics = check(result, tmp_path, ["u7", "u30"], [row[1] for row in rows])
    assert metrics["dataset"]["users"] == 40
    assert result.stderr == ""


def test_without_timestamps(write, tmp_path):
    rows = [record[:2] for record in records()]
    result = run(write("clicks.tsv", rows, HEADER[:2]), tmp_path)
    check(result, tmp_path, [7, 30], [row[1] for row in rows])
    assert result.stderr.count("\n") == 1
    assert "warning: no timestamps in" in result.stderr
    assert "--timestamp-column" in result.stderr


def test_ids_with_commas_quotes_spaces_and_unicode(write, tmp_path):
    rows = [(f"Müller, Jörg {u} 日本", f' "no. {i}", ö', when) for u, i, when in records()]
    result = run(write("clicks.csv", rows), tmp_path)
    users = ["Müller, Jörg 7 日本", "Müller, Jörg 30 日本"]
    check(result, tmp_path, users, [row[1] for row in rows])
    table = command("recommend", "--run", tmp_path / "out", "--user", users[0], "-k", 2)
    widths = {len(line) for line in table.stdout.splitlines()}
    assert len(widths) == 1, "columns stand below each other"


def test_users_of_both_options_and_of_none(write, tmp_path):
    assert run(write("clicks.csv", records()), tmp_path).returncode == 0
    recommend = ("recommend", "--run", tmp_path / "out", "-k", 1, "--format", "csv")
    result = command(*recommend, "--users", "3, 1,", "--user", "2")
    found = [row["user"] for row in csv.DictReader(result.stdout.splitlines())]
    assert found == ["3", "1", "2"]
    result = command(*recommend)
    assert result.returncode == 1
    assert result.stderr.startswith("error: no user was named: give --users")


def test_an_inter_file_with_more_columns(write, tmp_path):
    header = (
        "rating:float",
        "timestamp:float",
        "item_id:token",
        "title:token_seq",
        "user_id:token",
    )
    rows = [(4.5, when, item, "a b, c", user) for user, item, when in records()]
    result = run(write("clicks.inter", rows, header), tmp_path)
    check(result, tmp_path, [7], [row[2] for row in rows])
    plain = run(write("plain.csv", records()), tmp_path / "plain")
    assert plain.stdout.split("seconds:")[0] == result.stdout.split("seconds:")[0]


def test_thirty_users_with_few_items_and_one_with_a_single_record(write, tmp_path):
    rows = [*records(n_users=30, n_items=40), ("lonely", 3, 1_600_000_000)]
    result = run(write("clicks.csv", rows), tmp_path)
    metrics = check(
        result, tmp_path, ["lonely", 7], [str(row[1]) for row in rows] + list(range(40))
    )
    assert set(metrics["protocols"]) == {"full"}
    assert "(kept in training): 1 users ('lonely')" in result.stdout


def test_a_file_given_twice_over_is_noticed(write, tmp_path):
    rows = [row for row in records() for _ in range(2)]
    data = write("clicks.csv", rows)
    result = run(data, tmp_path)
    check(result, tmp_path, [7], [row[1] for row in rows])
    assert f"warning: {len(rows) // 2} of {len(rows)} records in" in result.stderr
    once = run(data, tmp_path / "once", "--repeats", "first")
    assert (once.returncode, once.stderr) == (0, "")


@pytest.mark.parametrize("ids", ["the same", "others", "text"])
def test_two_domains_whatever_the_ids_of_their_items(write, tmp_path, ids):
    target = write("target.csv", records())
    others = {"the same": int, "others": (1000).__add__, "text": "{}, b".format}[ids]
    rows = [(user, others(item), when) for user, item, when in records(seed=1)]
    result = run(target, tmp_path, "--source", write("source.csv", rows))
    metrics = check(result, tmp_path, [7], [str(row[1]) for row in records()])
    of_both = [len({row[1] for row in domain}) for domain in (records(), rows)]
    assert metrics["dataset"]["target_items"] == of_both[0]
    assert metrics["dataset"]["items"] == sum(of_both)


WRONG = {
    "empty.csv": ("", "the file is empty"),
    "blank.csv": ("\n\n", "the file is empty"),
    "header.csv": ("user_id,item_id,timestamp\n", "expected at least one row"),
    "dates.csv": (
        "user_id,item_id,timestamp\nu1,i1,01.05.2024 12:00:00\n",
        "line 2, column 'timestamp'.*looks like a date: write it as ISO 8601",
    ),
    "names.csv": ("uid,item_id\n1,2\n", "no column 'user_id'.*--user-column"),
    "semicolons.csv": ("user_id;item_id\n1;2\n", "as if ';' stood between columns.*convert"),
    "tabs.csv": (
        "user_id\titem_id\n1\t2\n",
        r"as if '\\t' stood .* \.tsv and \.inter tabs.*rename",
    ),
    "one.csv": (
        "user_id,item_id,timestamp\n1,1,1\n",
        "none of 1 users has 3 records; bring longer histories.*--valid-from",
    ),
    "short.csv": (
        "user_id,item_id,timestamp\n" + "".join(f"1,{i},{i}\n" for i in range(3)),
        "no user has two training records.*bring longer histories",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_files_that_cannot_be_used_end_with_one_line(tmp_path, name):
    content, message = WRONG[name]
    (tmp_path / name).write_text(content)
    result = run(tmp_path / name, tmp_path)
    assert result.returncode == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert result.stderr.splitlines()[-1] == errors[0]
    assert re.search(message, errors[0])
    assert not (tmp_path / "out").exists()


def test_domains_without_a_shared_user_are_refused(write, tmp_path):
    rows = [(f"x{user}", item, when) for user, item, when in records(seed=1)]
    result = run(write("target.csv", records()), tmp_path, "--source", write("source.csv", rows))
    assert result.returncode == 1
    assert result.stderr.startswith("error: no user occurs in both domains")
    assert "give the same person the same id" in result.stderr
    assert not (tmp_path / "out").exists()
