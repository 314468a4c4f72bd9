from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules import verification
from datamodules.errors import ShardError
from datamodules.shard_writer import ShardWriter
from datamodules.verification import verify_split
from tests.datamodules.build import make_sample, make_split


def reasons(folder: Path, **options: Any) -> list[tuple[str, str, str]]:
    check = verify_split(folder, **{"deep": True, "workers": 1, **options})
    return [(Path(problem.file).name, problem.place, problem.reason) for problem in check.problems]


def change_index(folder: Path, **changes: Any) -> None:
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, **changes}))


def change_entry(folder: Path, number: int, **changes: Any) -> None:
    index = json.loads((folder / "index.json").read_text())
    index["shards"][number].update(changes)
    change_index(folder, shards=index["shards"])


def overwrite(path: Path, old: bytes, new: bytes) -> int:
    """Change bytes in place; returns where."""
    content = path.read_bytes()
    place = content.index(old)
    path.write_bytes(content[:place] + new + content[place + len(new) :])
    return place


@pytest.fixture
def split(tmp_path: Path) -> Path:
    return make_split(tmp_path / "s", 9, targets=2, expressions=3, num_shards=3)


def test_a_good_split_has_no_problems_and_everything_is_counted(split: Path) -> None:
    for workers in (1, 2):
        told: list[None] = []
        check = verify_split(split, deep=True, workers=workers, progress=lambda told=told: told.append(None))
        assert check.problems == []
        assert check.index is not None
        assert (check.images, check.masks, len(told)) == (9, 18, 3)
        assert check.bytes == sum(path.stat().st_size for path in split.glob("*.tar"))
    assert verify_split(split, deep=False, workers=1).images == 0


def test_a_truncated_shard_is_told_with_its_byte(split: Path) -> None:
    path = split / "00001.tar"
    os.truncate(path, 5000)
    found = reasons(split)
    assert found[0][:2] == ("00001.tar", "byte 5000")
    assert found[0][2].startswith("ends inside sample 1 of 3; index.json says ")
    assert found[1][2].startswith("sha256 is ")
    assert found[2][1].startswith("sample 1 (byte ")
    assert "is cut off at byte 5000" in found[2][2]
    assert len(found) == 3  # the samples that are not there at all are not told again
    os.truncate(path, json.loads((split / "index.json").read_text())["shards"][1]["bytes"] - 512)
    assert reasons(split)[0][2].startswith("ends after its last sample")


def test_appended_bytes_and_hidden_members_are_told(split: Path) -> None:
    path = split / "00000.tar"
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(bytes(100) + b"x")
    found = reasons(split)
    assert found[0] == (
        "00000.tar",
        f"byte {size}",
        f"has {size + 101} bytes, index.json says {size}: something was appended",
    )
    assert (
        "00000.tar",
        f"byte {size + 100}",
        "holds something behind its last sample that the index does not list",
    ) in found


def test_a_changed_pixel_changes_the_checksum(split: Path) -> None:
    change_entry(split, 2, sha256="0" * 64)
    ((name, place, reason),) = reasons(split)
    assert (name, place) == ("00002.tar", "")
    assert f"index.json says {'0' * 64}: the file was changed or damaged" in reason


def test_images_are_decoded_only_in_depth(split: Path) -> None:
    place = overwrite(split / "00000.tar", b"IDAT", b"IDXX")
    assert place
    assert [reason.split(" is ")[0] for _, _, reason in reasons(split, deep=False)] == ["sha256"]
    (_, name, reason) = reasons(split)[1]
    assert name == "sample 'img00000'"
    assert reason.startswith("broken png image")


def test_every_mask_is_decoded(split: Path) -> None:
    content = (split / "00000.tar").read_bytes()
    start = content.rindex(b'"counts":"') + len(b'"counts":"')
    (split / "00000.tar").write_bytes(content[:start] + b"~" + content[start + 1 :])
    found = reasons(split, deep=False)
    assert found[1][:2] == ("00000.tar", "sample 'img00006'")
    assert "target '1': mask counts hold characters outside" in found[1][2]


def test_keys_are_unique_in_the_split(tmp_path: Path) -> None:
    make_split(tmp_path / "s", 4, num_shards=2)
    shutil.copy(tmp_path / "s" / "00000.tar", tmp_path / "s" / "00001.tar")
    index = json.loads((tmp_path / "s" / "index.json").read_text())
    index["shards"][1] = {**index["shards"][0], "file": "00001.tar"}
    change_index(tmp_path / "s", shards=index["shards"])
    assert reasons(tmp_path / "s") == [
        ("00001.tar", "sample 'img00000'", "has the key of another sample in 00000.tar"),
        ("00001.tar", "sample 'img00002'", "has the key of another sample in 00000.tar"),
    ]


def test_a_key_twice_in_a_shard_is_told(tmp_path: Path) -> None:
    make_split(tmp_path / "s", 2)
    overwrite_all(tmp_path / "s" / "00000.tar", b"img00001", b"img00000")
    found = reasons(tmp_path / "s")
    assert (found[-1][1], found[-1][2]) == ("sample 'img00000'", "has the key of another sample in this shard")


def overwrite_all(path: Path, old: bytes, new: bytes) -> None:
    """Rename members, with the checksums of their headers."""
    with tarfile.open(path) as source:
        members = [(member.name.encode().replace(old, new).decode(), source.extractfile(member)) for member in source]
        contents = [(name, file.read()) for name, file in members if file is not None]
    with tarfile.open(path, "w:") as target:
        for name, content in contents:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o644
            target.addfile(info, io.BytesIO(content))


def test_the_index_must_fit_the_samples(split: Path) -> None:
    samples = json.loads((split / "index.json").read_text())["shards"][0]["samples"]
    change_entry(split, 0, samples={**samples, "expressions": [5, 7, 6]})
    found = reasons(split)
    assert [place for _, place, _ in found] == ["sample 0 (byte 0)", f"sample 1 (byte {samples['bytes'][0]})"]
    assert found[0][2] == "sample 'img00000' has 2 targets with 6 expressions, index.json says 2 with 5"
    shifted = [samples["bytes"][0] - 512, samples["bytes"][1] + 512, samples["bytes"][2]]
    change_entry(split, 0, samples={**samples, "bytes": shifted})
    assert len(reasons(split)) == 2


def test_features_are_in_all_samples_or_none(tmp_path: Path, split: Path) -> None:
    change_index(split, features={"backbone": "toy"})
    assert reasons(split)[0][2] == "has no feature map, but index.json says otherwise"
    about = {"name": "f", "source": "t", "licence": "CC0-1.0", "features": {"backbone": "toy"}}
    with ShardWriter(tmp_path / "f", **about) as shards:
        shards.write(*make_sample(0), "png", features=np.zeros((2, 2, 2), np.float16))
    assert reasons(tmp_path / "f") == []
    change_index(tmp_path / "f", features=None)
    assert reasons(tmp_path / "f")[0][2] == "has a feature map, but index.json says otherwise"


def test_a_sample_needs_its_image_also_without_depth(tmp_path: Path) -> None:
    make_split(tmp_path / "s", 1)
    overwrite_all(tmp_path / "s" / "00000.tar", b".png", b".jso")
    assert any("is refused" in reason for _, _, reason in reasons(tmp_path / "s", deep=False))
    with tarfile.open(tmp_path / "s" / "00000.tar", "w:") as target:
        content = json.dumps(make_sample(0)[0].to_json()).encode()
        info = tarfile.TarInfo("img00000.json")
        info.size = len(content)
        target.addfile(info, io.BytesIO(content))
    samples = {"bytes": [512 + -(-len(content) // 512) * 512], "targets": [1], "expressions": [1]}
    change_entry(tmp_path / "s", 0, bytes=(tmp_path / "s" / "00000.tar").stat().st_size, samples=samples)
    assert reasons(tmp_path / "s", deep=False)[-1][2] == "needs one image member, has 0"


def test_shards_that_are_missing_or_unlisted_are_told(split: Path) -> None:
    shutil.move(split / "00001.tar", split / "00007.tar")
    assert reasons(split) == [
        ("00007.tar", "", "is not listed in index.json: no run reads it"),
        ("00001.tar", "", "cannot be opened: No such file or directory"),
    ]
    shutil.rmtree(split / "00001.tar", ignore_errors=True)
    (split / "00001.tar").mkdir()
    assert ("00001.tar", "", "cannot be read: Is a directory") in reasons(split)


def test_a_shard_that_is_listed_twice_is_told(tmp_path: Path) -> None:
    make_split(tmp_path / "s", 2)
    entries = json.loads((tmp_path / "s" / "index.json").read_text())["shards"]
    change_index(tmp_path / "s", shards=entries * 2)
    assert ("index.json", "", "lists a shard twice") in reasons(tmp_path / "s")


def test_an_index_that_cannot_be_read_is_a_problem_of_its_split(split: Path) -> None:
    (split / "index.json").write_text("{")
    ((name, _, reason),) = reasons(split)
    assert name == "index.json"
    assert "is not valid JSON" in reason


def test_a_shard_full_of_problems_does_not_fill_the_screen(tmp_path: Path) -> None:
    make_split(tmp_path / "s", 30)
    (tmp_path / "s" / "00000.tar").write_bytes(bytes((tmp_path / "s" / "00000.tar").stat().st_size))
    check = verify_split(tmp_path / "s", deep=False, workers=1)
    assert len(check.problems) == 20
    assert check.more == 31 - 20


def test_a_worker_that_dies_is_told(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "check_shard", _die)
    with pytest.raises(ShardError, match=r"one of the 2 processes that read shards died, .*fewer --workers"):
        verify_split(split, deep=False, workers=2)


def _die(*_: Any) -> None:
    os._exit(1)
