import pytest

from pdrec_fast.training import MODULES, PDRecConfig


def test_modules_have_one_canonical_order() -> None:
    assert PDRecConfig(modules=("nns", "hbr")) == PDRecConfig(modules=("hbr", "nns", "hbr"))
    assert PDRecConfig(modules=["nns", "dpa", "hbr"]).modules == MODULES  # type: ignore[arg-type]
    assert PDRecConfig(modules=()).modules == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("modules", ("hbr", "hrb")),
        ("similarity", "euclidean"),
        ("select_by", "test"),
        ("loss", "bpr"),
        ("temperature", 0.0),
        ("lr", -1e-3),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("lr_decay", 0.0),
        ("lr_decay", float("inf")),
        ("lr_schedule", "linear"),
        ("warmup_steps", -1),
        ("weight_decay", -0.1),
        ("weight_decay", float("nan")),
        ("weight_decay", float("inf")),
        ("clip_norm", -1.0),
        ("clip_norm", float("nan")),
        ("clip_norm", float("inf")),
        ("temperature", float("inf")),
        ("hbr_clip", float("nan")),
        ("dpa_weight", float("inf")),
        ("batch_size", 0),
        ("dpa_top_n", 0),
        ("dpa_weight", -0.1),
        ("dpa_start", -1),
        ("dpa_start", 300),
        ("safe_negatives", 0),
        ("random_negatives", -1),
        ("seed", -1),
        ("seed", 2**32),
    ],
)
def test_settings_out_of_range_are_named(name: str, value: object) -> None:
    shown = "hrb" if name == "modules" else str(value)
    with pytest.raises(ValueError, match=f"{name}.*{shown}"):
        PDRecConfig(**{name: value})  # type: ignore[arg-type]


def test_no_clip_of_hbr_is_infinity() -> None:
    assert PDRecConfig(hbr_clip=float("inf")).hbr_clip == float("inf")


def test_random_negatives_can_be_left_out_with_safe_ones_alone() -> None:
    assert PDRecConfig(random_negatives=0, modules=("nns",)).random_negatives == 0
    with pytest.raises(ValueError, match="random_negatives=0"):
        PDRecConfig(random_negatives=0, modules=("hbr", "dpa"))
