from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from datamodules.convert.identity import fingerprint


@dataclass
class Job:
    photo: Path
    polygons: list[list[float]] = field(default_factory=list)


def test_the_same_again(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    jobs = [Job(tmp_path / "a.jpg", [[1.0, 2.0]]), Job(tmp_path / "b.jpg")]
    assert fingerprint({"a": 1}, {"x", "y"}, jobs=jobs) == fingerprint({"a": 1}, {"y", "x"}, jobs=list(jobs))
    assert len(fingerprint()) == 64


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", 1),
        (1, 1.0),
        (["a", "b"], ["ab"]),
        ([["a"], "b"], [["a", "b"]]),
        ({"a": 1}, {"a": 2}),
        (b"a", "a"),
        (None, False),
        (np.zeros(3), np.zeros(3, np.float32)),
        (np.zeros((1, 3)), np.zeros(3)),
        (Job(Path("a")), Job(Path("b"))),
        (Job(Path("a"), [[1.0]]), Job(Path("a"), [[1.0], []])),
    ],
)
def test_whatever_differs_makes_a_difference(one, other):
    assert fingerprint(one) != fingerprint(other)


def test_a_file_that_changed(tmp_path):
    path = tmp_path / "a.jpg"
    before = [fingerprint(path)]
    path.write_bytes(b"x")
    before.append(fingerprint(path))
    path.write_bytes(b"xy")
    before.append(fingerprint(path))
    os.utime(path, (1, 1))
    before.append(fingerprint(path))
    assert len(set(before)) == 4
