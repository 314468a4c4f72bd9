from __future__ import annotations

import pytest

from datamodules.errors import ShardError
from datamodules.locations import expand, filesystem, is_remote, join, parent, read_small
from datamodules.shard_index import read_index
from tests.datamodules.build import make_split
from tests.datamodules.http_server import serve


def test_names():
    assert [is_remote(name) for name in ("s3://bucket/a", "http://h/a", "data/a", "/data/a", "C:/a")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert join("s3://bucket/a/", "index.json") == "s3://bucket/a/index.json"
    assert [parent(name) for name in ("s3://b/a/0.tar", "/a/0.tar", "0.tar")] == ["s3://b/a", "/a", "."]


def test_braces_and_wildcards(tmp_path):
    assert expand("a/{b,c}/{1..3}") == [f"a/{letter}/{number}" for letter in "bc" for number in (1, 2, 3)]
    assert expand("s3://bucket/{00..02}.tar") == [f"s3://bucket/0{number}.tar" for number in range(3)]
    for name in ("x1", "x2", "y1"):
        (tmp_path / name).mkdir()
    assert expand(f"{tmp_path}/x?") == [f"{tmp_path}/x1", f"{tmp_path}/x2"]
    assert expand(f"{tmp_path}/{{y*,x[2-9]}}") == [f"{tmp_path}/y1", f"{tmp_path}/x2"]


def test_wildcards_of_a_remote(tmp_path):
    for name in ("a", "b"):
        make_split(tmp_path / name / "train", 1)
    assert expand(f"file://{tmp_path}/*/train") == [f"file://{tmp_path}/{name}/train" for name in ("a", "b")]
    assert read_index(f"file://{tmp_path}/a/train").images == 1
    with pytest.raises(FileNotFoundError, match=r"file://.*/c\* fits no folder or file"):
        expand(f"file://{tmp_path}/c*")


def test_unknown_protocols():
    with pytest.raises(ShardError, match=r"nowhere://a: nowhere:// cannot be opened .*Name a folder, or a URL"):
        filesystem("nowhere://a")
    with pytest.raises(ShardError, match=r"pipe:// cannot be opened"):  # webdataset would run a shell
        filesystem("pipe://cat a.tar")


def test_a_missing_package_is_named():
    pytest.importorskip("fsspec")
    try:
        import s3fs  # noqa: F401
    except ImportError:
        with pytest.raises(ShardError, match=r"s3:// cannot be opened .*Install it: pip install s3fs"):
            filesystem("s3://bucket/a")
    else:
        pytest.skip("s3fs is installed")


def test_a_missing_remote_index(tmp_path):
    message = r"index\.json is not there: http://.*no split"
    with serve(tmp_path) as (url, _), pytest.raises(FileNotFoundError, match=message):
        read_index(f"{url}/nothing")


def test_an_endless_index_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.locations.MAX_INDEX_BYTES", 10)
    (tmp_path / "index.json").write_text("x" * 11)
    with pytest.raises(ShardError, match="is larger than 10 bytes, which no index is"):
        read_small(f"file://{tmp_path}/index.json", 0)
