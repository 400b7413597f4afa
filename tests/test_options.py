import datetime as dt
import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from pdrec_fast import options as opt
from pdrec_fast.data import Interactions
from pdrec_fast.pipeline import RunConfig, SplitSpec


def read_by_command(arguments):
    """The data options that a command with these arguments gets."""
    found = []

    def command(data: opt.DataOptions) -> None:
        """Keep the options."""
        found.append(data)

    app = typer.Typer()
    app.command()(opt.grouped(command))
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return found[0]


def test_a_file_without_a_header_by_position(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("5,u,1577836800,i\n4,u,1577836799,j\n3,v,1577836800,j\n5,w,1577836801,i\n")
    given = ["--data", path, "--no-header", "--user-column", "1", "--item-column", "3"]
    given += ["--timestamp-column", "2", "--rating-column", "0", "--min-rating", "4"]
    given += ["--since", "2020-01-01", "--limit-users", "1"]
    options = read_by_command(given)
    data = options.read()
    assert data.n_users == 1
    assert set(data.user_ids) <= {"u", "w"}
    assert data.item_ids.tolist() == ["i"]
    assert read_by_command(options.arguments()) == options
    until = replace(options, since=None, until="2020-01-01", limit_users=None).read()
    assert until.item_ids.tolist() == ["j"]


def test_the_arguments_of_options_give_the_same_options(tmp_path):
    given = {"data": tmp_path, "source": tmp_path, "min_user": 2, "min_rating": 3.5}
    given |= {"no_header": True, "valid_from": "2020-09-14", "test_from": "2e9"}
    options = opt.DataOptions(**given)
    assert read_by_command(options.arguments()) == options
    assert all(field.name in asdict(options) for field in fields(options))


def test_digits_are_a_position_unless_a_column_is_called_so(tmp_path):
    path: Path = tmp_path / "d.csv"
    path.write_text("1,0,when\nu,i,5\n")
    options = opt.DataOptions(path, user_column="1", item_column="0", timestamp_column="2")
    data = options.read()
    assert (data.user_ids.tolist(), data.item_ids.tolist()) == (["u"], ["i"])
    assert data.timestamps.tolist() == [5]


@pytest.mark.parametrize(
    "given", ["2020-09-14", dt.date(2020, 9, 14), np.datetime64("2020-09-14T00"), "20200914T0000Z"]
)
def test_a_split_at_dates_is_kept_as_text(given):
    spec = SplitSpec(given, "2020-09-15T02:00+02:00")
    described = RunConfig(split=spec).describe()["split"]
    assert described == {"valid_from": "2020-09-14T00:00:00Z", "test_from": "2020-09-15T00:00:00Z"}
    assert SplitSpec(**json.loads(json.dumps(described))) == spec
    days = np.array([1600041599, 1600041600, 1600128000])
    split = spec.apply(Interactions.from_arrays([1] * 3, [1, 2, 3], days))
    assert (split.train.n_records, len(split.valid), len(split.test)) == (1, 1, 1)


def test_a_split_at_numbers_is_kept_as_numbers():
    assert SplitSpec("0.1", 2300) == SplitSpec(0.1, 2300.0)
    assert asdict(SplitSpec("0.1", "2300")) == {"valid_from": 0.1, "test_from": 2300.0}
    with pytest.raises(ValueError, match="valid_from='soon' is neither a number"):
        SplitSpec("soon", 5)


def test_an_option_that_defaults_to_none_keeps_its_name_and_help():
    """Python 3.10 lost both."""

    @opt.grouped
    def command(data: opt.DataOptions, settings: opt.Set = None, threads: opt.Threads = None):
        """Do nothing."""

    app = typer.Typer()
    app.command()(command)
    options = {name: p.help for p in typer.main.get_command(app).params for name in p.opts}
    assert "--settings" not in options
    assert options["--set"].startswith("Change one setting")
    assert options["--threads"].startswith("CPU threads")
