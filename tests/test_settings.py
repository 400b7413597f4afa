"""Settings of a run as text."""

import pytest

import pdrec_fast as pf
from pdrec_fast.settings import with_setting


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("True", True), ("false", False), ("False", False)]
)
def test_switches_are_read_as_json_and_as_presets_prints_them(text, value):
    config = with_setting(pf.RunConfig(), f"pdrec.skip_cold_items={text}")
    assert config.pdrec.skip_cold_items is value
