"""Plain-data specs: recorded however a part is built, rebuilt without config and pickle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from coprs_lightning.backbones import TimmBackbone
from coprs_lightning.component import Component
from coprs_lightning.heatmap_heads import FiLMHead
from coprs_lightning.importing import ALLOW_ENV, allowed_packages, check_allowed, import_class
from coprs_lightning.spec import Recorded, build, class_path, constructor_hints, to_plain


@dataclass(frozen=True)
class Weights:
    dice: float = 1.0
    pair: tuple[int, int] = (1, 2)


class Inner(Component):
    def __init__(self, *, width: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = width


class Outer(Component):
    def __init__(
        self,
        *,
        inner: Inner,
        weights: Weights = Weights(),
        later: Weights | None = None,
        betas: tuple[float, float] = (0.9, 0.99),
        names: list[str] | None = None,
        parts: dict[str, Inner] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.inner, self.weights, self.later, self.betas, self.names = inner, weights, later, betas, names
        self.widths = {name: part.width for name, part in (parts or {}).items()}


class Child(Outer):
    """Has no constructor of its own."""


class Widened(Inner):
    def __init__(self, *, extra: int = 5, **kwargs: Any) -> None:
        super().__init__(width=extra + 1, **kwargs)


@pytest.fixture(autouse=True)
def _tests_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW_ENV, "tests")


def test_a_spec_holds_every_argument_defaults_and_parents_included() -> None:
    spec = FiLMHead(query_dim=3, in_channels=4, dim=8, lr_multiplier=2.0).spec
    assert spec["class_path"] == "coprs_lightning.heatmap_heads.film.FiLMHead"
    assert spec["init_args"]["dim"] == 8
    assert spec["init_args"]["depth"] == 2
    assert spec["init_args"]["lr_multiplier"] == 2.0
    assert spec["init_args"]["query_dim"] == 3


def test_nested_parts_and_dataclasses_come_back(tmp_path: Any) -> None:
    outer = Outer(inner=Inner(width=7), weights=Weights(dice=3.0), later=Weights(pair=(5, 6)), names=["a"], frozen=True)
    torch.save(outer.spec, tmp_path / "spec.pt")
    again = build(torch.load(tmp_path / "spec.pt", weights_only=True))
    assert again.spec == outer.spec
    assert isinstance(again.inner, Inner)
    assert again.inner.width == 7
    assert (again.weights, again.later) == (Weights(dice=3.0), Weights(pair=(5, 6)))
    assert again.betas == (0.9, 0.99)
    assert again.frozen


def test_parts_by_name_come_back() -> None:
    outer = Outer(inner=Inner(), parts={"a": Inner(width=3), "b": Widened(extra=8)})
    again = build(outer.spec)
    assert again.spec == outer.spec
    assert again.widths == {"a": 3, "b": 9}


def test_a_subclass_records_its_own_arguments_once() -> None:
    assert Widened(extra=1).spec["init_args"] == {"extra": 1}
    assert build(Widened(extra=1).spec).width == 2


def test_a_subclass_without_constructor_records_its_parents() -> None:
    spec = Child(inner=Inner()).spec
    assert spec["class_path"] == class_path(Child)
    assert type(build(spec)) is Child


def test_positional_arguments_are_recorded_by_name() -> None:
    class Positional(Recorded):
        def __init__(self, size: int, name: str = "x") -> None:
            self.size = size

    assert Positional(3).spec["init_args"] == {"size": 3, "name": "x"}


def test_values_that_are_not_plain_are_refused() -> None:
    with pytest.raises(TypeError, match=r"\(Tensor\) cannot be written into a checkpoint as plain data"):
        to_plain({"a": [torch.zeros(1)]})


def test_hints_of_forwarded_arguments_are_found() -> None:
    hints = constructor_hints(TimmBackbone)
    assert hints["image_size"] == int | None
    assert hints["lr_multiplier"] is float
    assert hints["model_name"] is str


def test_only_allowed_packages_are_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALLOW_ENV)
    with pytest.raises(ValueError, match=rf"'os.system' is outside the packages .* set {ALLOW_ENV}=os\."):
        check_allowed("os.system")
    with pytest.raises(ValueError, match=r"'coprs_lightning_evil\.X' is outside"):
        check_allowed("coprs_lightning_evil.X")
    with pytest.raises(ValueError, match=r"'tests\.test_spec\.Inner' is outside"):
        build({"class_path": "tests.test_spec.Inner", "init_args": {}})
    monkeypatch.setenv(ALLOW_ENV, " mine , tests")
    assert allowed_packages()[-2:] == ("mine", "tests")
    assert import_class("tests.test_spec.Inner").__name__ == "Inner"


def test_what_is_no_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"names no class: tests\.test_spec has no class 'nothing'"):
        import_class("tests.test_spec.nothing")
    with pytest.raises(ValueError, match="has no class 'class_path'"):
        import_class("tests.test_spec.class_path")
