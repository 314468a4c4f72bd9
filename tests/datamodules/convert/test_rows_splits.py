from __future__ import annotations

import pytest

from datamodules.convert.errors import BadSourceError
from datamodules.convert.rows_splits import SplitRule, check_split, order_splits

NAMES = [f"{number:03d}.jpg" for number in range(200)]


def val(rule: SplitRule, names: list[str] = NAMES) -> set[str]:
    return {name for name, split in rule.divide(names).items() if split == "val"}


def test_share_seed_and_order() -> None:
    chosen = val(SplitRule())
    assert len(chosen) == 20
    assert val(SplitRule(), NAMES[::-1]) == chosen
    assert val(SplitRule(seed=1)) != chosen
    assert len(val(SplitRule(val_fraction=0.25))) == 50
    assert set(SplitRule(only="test").divide(NAMES).values()) == {"test"}


def test_more_images_move_few() -> None:
    more = [*NAMES, *(f"new{number}.jpg" for number in range(20))]
    kept = val(SplitRule(), more) & set(NAMES)
    assert len(kept ^ val(SplitRule())) <= 4


def test_small_sets() -> None:
    assert val(SplitRule(), ["a", "b"]) in ({"a"}, {"b"})
    assert val(SplitRule(), ["a"]) == set()
    assert len(val(SplitRule(val_fraction=1.0), ["a", "b", "c"])) == 2
    assert val(SplitRule(val_fraction=0.0)) == set()
    assert SplitRule().divide([]) == {}
    assert SplitRule().divide(["\ud800"]) == {"\ud800": "train"}


def test_names() -> None:
    assert check_split("refcoco+_testA-1", "x") == "refcoco+_testA-1"
    for name in ("../up", "a/b", "a.b", "", "a" * 51):
        with pytest.raises(BadSourceError, match=r"t line 3: the split .* cannot name a folder. Use 1–50 letters"):
            check_split(name, "t line 3")
    assert order_splits(["testB", "val", "train", "a", "val"]) == ["train", "val", "a", "testB"]
