"""Conversions that are killed, repeated and changed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datamodules.convert.split import UNCHANGED, WriteOptions, write_splits
from datamodules.shard_index import read_index
from datamodules.shard_writer import ShardWriter
from tests.datamodules.convert.sources import save_lisa
from tests.datamodules.convert.test_split import convert, plan

REPO = Path(__file__).resolve().parents[3]


def write(plans, **options):
    return list(write_splits(plans, convert, WriteOptions(licence="CC0-1.0", **options), lambda *_: lambda: None))


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_the_same_again_changes_nothing(tmp_path):
    (first,) = write([plan(tmp_path / "a", [1, 2])], shards=2)
    before = times(tmp_path / "a")
    (again,) = write([plan(tmp_path / "a", [1, 2])], shards=2, workers=2)
    assert times(tmp_path / "a") == before
    assert again.notes == {UNCHANGED: 1}
    counts = ("images", "targets", "expressions", "shards", "bytes")
    assert [getattr(again, name) for name in counts] == [getattr(first, name) for name in counts]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ("jobs", "by the same converter, but its source, or --shards or --max-skipped, was another"),
        ("extra", r"with other options: texts None \(now 'first'\)\."),
        ("shards", "--shards or --max-skipped, was another"),
        ("damaged", r"no whole split: .*00000\.tar"),
    ],
)
def test_anything_else_needs_leave(tmp_path, changed, reason):
    write([plan(tmp_path / "a", [1, 2])])
    jobs, options, extra = [1, 2], {}, {}
    if changed == "jobs":
        jobs = [1, 2, 3]
    elif changed == "extra":
        extra = {"texts": "first"}
    elif changed == "shards":
        options = {"shards": 2}
    else:
        (tmp_path / "a" / "00000.tar").write_bytes(b"x")
    with pytest.raises(FileExistsError, match=f"overwrite=True to replace the split.*{reason}"):
        write([plan(tmp_path / "a", jobs, extra=extra)], **options)
    write([plan(tmp_path / "a", jobs, extra=extra)], overwrite=True, **options)
    assert read_index(tmp_path / "a").images == len(jobs)


def test_splits_that_are_done_are_kept_when_others_are_not(tmp_path):
    write([plan(tmp_path / "a", [1])])
    before = times(tmp_path / "a")
    first, second = write([plan(tmp_path / "a", [1]), plan(tmp_path / "b", [2])])
    assert first.notes == {UNCHANGED: 1}
    assert (second.images, second.notes["seen"]) == (1, 1)
    assert times(tmp_path / "a") == before


@pytest.mark.parametrize("workers", ["1", "2"])
def test_kill_9_leaves_no_half_split_and_the_next_run_cleans_up(tmp_path, workers):
    for number in range(300):
        save_lisa(tmp_path / "in" / "train", f"img{number}", height=240, width=320, seed=number)
    save_lisa(tmp_path / "in" / "a_small", "one")
    words = ["data", "reasonseg", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    words += ["--workers", workers]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    running = subprocess.Popen(
        [sys.executable, "-m", "coprs_lightning", *words], env=environment, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size > 100_000 for path in tmp_path.glob("out/.train.partial-*/*.tar")):
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.002)
    os.kill(running.pid, signal.SIGKILL)
    running.wait(60)
    assert not (tmp_path / "out" / "train").exists()
    assert list(tmp_path.glob("out/.train.partial-*"))
    done = times(tmp_path / "out" / "a_small")

    other = tmp_path / "out" / ".train.partial-elsewhere-1"  # of a machine that shares this disk: perhaps at work
    other.mkdir()
    again = subprocess.run(
        [sys.executable, "-m", "coprs_lightning", *words], env=environment, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert list(tmp_path.glob("out/.*")) == [other]
    assert read_index(tmp_path / "out" / "train").images == 300
    assert times(tmp_path / "out" / "a_small") == done


def test_a_split_being_written_by_another_process_is_not_touched(tmp_path):
    import socket

    own = tmp_path / f".a.partial-{socket.gethostname()}-{os.getpid()}-x"
    alive = tmp_path / f".a.partial-{socket.gethostname()}-1"
    dead = tmp_path / f".a.old-{socket.gethostname()}-{2**22 + 12345}"
    for folder in (own, alive, dead):
        folder.mkdir()
    write([plan(tmp_path / "a", [1])])
    assert alive.exists()
    assert own.exists()
    assert not dead.exists()
    assert json.loads((tmp_path / "a" / "index.json").read_text())["counts"]["images"] == 1
    assert ShardWriter(tmp_path / "b", name="b", source="", licence="").output == tmp_path / "b"


def test_the_next_process_has_the_number_of_the_killed_one(tmp_path):
    """As in a container that starts again."""
    import socket

    left = tmp_path / f".a.partial-{socket.gethostname()}-{os.getpid()}"
    left.mkdir()
    (left / "00000.tar").write_bytes(b"half")
    write([plan(tmp_path / "a", [1])])
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert read_index(tmp_path / "a").images == 1


def test_leftovers_go_although_the_split_is_kept(tmp_path):
    """Somebody converted it once more with --overwrite, and that was killed."""
    import socket

    write([plan(tmp_path / "a", [1])])
    (tmp_path / f".a.partial-{socket.gethostname()}-{2**22 + 12345}").mkdir()
    (summary,) = write([plan(tmp_path / "a", [1])])
    assert summary.notes == {UNCHANGED: 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
