from __future__ import annotations

from pathlib import Path

import pytest

from datamodules.convert.errors import BadItemError, BadSourceError
from datamodules.convert.rows_paths import FileFinder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("in/a.png", "in/images/b.png", "in/sub/a.png", "more/c.png", "more/a.png", "secret.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def find(finder: FileFinder, name: str, **options) -> Path:
    return finder.find(name, what="image", where="t.csv line 2", **options)


def test_places_in_order(folder: Path) -> None:
    finder = FileFinder(folder / "in", [folder / "more"], inside=("images",))
    assert find(finder, "a.png") == folder / "more/a.png"
    assert find(finder, "b.png") == folder / "in/images/b.png"
    assert find(finder, "sub/a.png") == find(finder, "sub\\a.png") == folder / "in/sub/a.png"
    assert find(finder, "a.png", beside=folder / "in/sub") == folder / "in/sub/a.png"
    assert find(finder, str(folder / "in/a.png")) == folder / "in/a.png"
    assert find(finder, "gone/x/c.png", by_name="c.png") == folder / "more/c.png"


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "sub/../../secret.png", "..\\secret.png", "/{root}/secret.png", "link.png", "linked/secret.png"],
)
def test_nothing_outside_is_reached(folder: Path, name: str) -> None:
    (folder / "in/link.png").symlink_to(folder / "secret.png")
    (folder / "in/linked").symlink_to(folder)
    name = name.replace("/{root}", str(folder))
    with pytest.raises(BadItemError) as error:
        find(FileFinder(folder / "in", [folder / "more"]), name)
    assert error.value.reason == "path outside the folders"
    assert (
        f"t.csv line 2: image {name!r} is {folder / 'secret.png'}, outside {folder / 'more'}, {folder / 'in'}"
        in str(error.value)
    )
    assert "name its folder with --images" in str(error.value)
    assert find(FileFinder(folder / "in", [folder]), name).read_text() == "secret.png"


def test_missing_files(folder: Path) -> None:
    finder = FileFinder(folder / "in")
    for name in ("c.png", "images", "x" * 5000, "a.png/b"):
        with pytest.raises(
            BadItemError, match=r"missing file: t.csv line 2: image .* is not in .*/in\. Correct the name, or"
        ):
            find(finder, name)
    for name in ("", " ", "a\0b"):
        with pytest.raises(BadItemError, match=r"t.csv line 2: image .* is no file name"):
            find(finder, name)


def test_folders_must_exist(folder: Path) -> None:
    with pytest.raises(BadSourceError, match=r"--images .*/nowhere is no folder"):
        FileFinder(folder, [folder / "nowhere"])
    with pytest.raises(BadSourceError, match=r"--input .*/nowhere is no folder"):
        FileFinder(folder / "nowhere")
    assert repr(FileFinder(folder)) == repr(FileFinder(folder))  # stands in fingerprints
