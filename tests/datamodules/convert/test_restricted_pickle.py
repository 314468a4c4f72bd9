from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from datamodules.convert.errors import BadSourceError
from datamodules.convert.restricted_pickle import load_plain_pickle


def save(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    value = [{"a": 1, "b": [1.5, None, True, (1, "ü")], "c": {1, 2}, "d": 2**70}]
    assert load_plain_pickle(save(tmp_path / "x.p", pickle.dumps(value, protocol))) == value


def test_byte_strings_and_globals_of_python_2(tmp_path: Path) -> None:
    # protocol 0 as cPickle of Python 2 wrote it: a list of a byte string, a unicode string, a long and a set
    text = b"(lp0\nS'caf\\xc3\\xa9'\np1\naVcaf\\u00e9\np2\naL5L\nac__builtin__\nset\np3\n((lp4\nI1\natp5\nRp6\na."
    assert load_plain_pickle(save(tmp_path / "x.p", text)) == ["café", "café", 5, {1}]


def test_latin_1_byte_strings_of_python_2(tmp_path: Path) -> None:
    assert load_plain_pickle(save(tmp_path / "x.p", b"(lp0\nS'caf\\xe9'\np1\na.")) == ["café"]


class Hostile:
    """Runs a command when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_hostile_pickle_is_refused_before_its_payload_runs(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "ran"
    data = pickle.dumps([{"ref_id": 1, "sentences": Hostile(marker)}], protocol)
    with pytest.raises(BadSourceError, match=r"asks for (posix|nt)\.system.*could run code.*nothing of it ran"):
        load_plain_pickle(save(tmp_path / "refs(unc).p", data))
    assert not marker.exists()
    pickle.loads(data)  # the payload does work where it is let
    assert marker.exists()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"c__builtin__\neval\n(S'1'\ntR.", "__builtin__.eval"),
        (b"cbuiltins\ngetattr\n.", "builtins.getattr"),
        (b"cbuiltins\nbytearray\n.", "builtins.bytearray"),
        (b"\x80\x04\x8c\x08builtins\x8c\x0dstr.__class__\x93.", "builtins.str.__class__"),
        (pickle.dumps(OrderedDict(a=1)), "collections.OrderedDict"),
        (pickle.dumps(np.float64(1.0)), "numpy"),
    ],
)
def test_every_other_global_is_named(tmp_path: Path, data: bytes, name: str) -> None:
    with pytest.raises(BadSourceError, match=f"asks for {name}") as error:
        load_plain_pickle(save(tmp_path / "refs(unc).p", data))
    assert "refs(unc).json" in str(error.value)


@pytest.mark.parametrize("data", [b"", b"no pickle", pickle.dumps([1, 2, 3])[:-4], b"\x80\x02P1\n."])
def test_broken_pickles(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(BadSourceError, match=r"(?s)x\.p is no readable pickle \(.*Download it again"):
        load_plain_pickle(save(tmp_path / "x.p", data))
