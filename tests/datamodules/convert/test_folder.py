from __future__ import annotations

import json
from pathlib import Path

import pytest

from datamodules.convert.errors import BadSourceError
from datamodules.convert.folder import FORMS, plan_folder
from datamodules.convert.folder_options import FolderOptions
from tests.datamodules.convert import test_coco, test_labelme
from tests.datamodules.convert.own_folders import convert, save_rows
from tests.datamodules.convert.sources import save_lisa, save_photo

ROW = {"image": "0.jpg", "question": "q", "mask": test_coco.BOX}


def plan(folder: Path, form: str | None = None, **options):
    return plan_folder(FolderOptions(folder, **options), folder.parent / "out", form)


def test_the_form_is_found_and_said(tmp_path: Path) -> None:
    save_rows(tmp_path / "table", ROW)
    test_coco.save(tmp_path / "coco", (0, 1, test_coco.BOX))
    test_labelme.save(tmp_path / "labelme", "deep/a", test_labelme.shape("x"))
    (tmp_path / "coco2/annotations").mkdir(parents=True)
    (tmp_path / "coco/annotations.json").rename(tmp_path / "coco2/annotations/instances.json")
    (tmp_path / "coco/images").rename(tmp_path / "coco2/images")
    assert plan(tmp_path / "table").found.startswith("a table of questions, questions.jsonl")
    assert plan(tmp_path / "coco2").found.startswith("COCO annotations, instances.json")
    assert plan(tmp_path / "labelme").found.startswith("1 LabelMe files")


def test_a_table_comes_first_unless_told_otherwise(tmp_path: Path) -> None:
    folder = save_rows(tmp_path / "in", ROW)
    test_coco.save(folder, (0, 1, test_coco.BOX))
    assert plan(folder).found.startswith("a table")
    assert plan(folder, "coco").found.startswith("COCO")
    assert plan(folder, table=Path("annotations.json")).found.startswith("COCO")
    assert plan(folder, table=folder / "questions.jsonl").found.startswith("a table")


def test_several_tables(tmp_path: Path) -> None:
    folder = save_rows(tmp_path / "in", ROW)
    save_rows(folder, ROW, name="more.jsonl")
    with pytest.raises(
        BadSourceError, match=r"holds several such files: more.jsonl, questions.jsonl. Name one with --table"
    ):
        plan(folder)
    assert "more.jsonl" in plan(folder, table=Path("more.jsonl")).found
    with pytest.raises(BadSourceError, match=r"--table gone.jsonl is no file, neither here nor in .*/in"):
        plan(folder, table=Path("gone.jsonl"))
    (folder / "q.txt").write_text("")
    with pytest.raises(BadSourceError, match=r"--table q.txt is of no use. Expected a table"):
        plan(folder, table=Path("q.txt"))


def test_folders_without_questions(tmp_path: Path) -> None:
    with pytest.raises(BadSourceError, match=r"nowhere is no folder\. Name the folder that holds"):
        plan(tmp_path / "nowhere")
    with pytest.raises(BadSourceError) as error:
        plan(tmp_path)
    for form in FORMS.values():
        assert form.expected in str(error.value)
    assert str(error.value).endswith("found nothing.")
    save_photo(tmp_path / "in/a.jpg")
    with pytest.raises(BadSourceError, match=r"holds no questions. Expected JSON files with 'shapes' .*found a.jpg\.$"):
        plan(tmp_path / "in", "labelme")


def test_hints_for_other_json(tmp_path: Path) -> None:
    save_lisa(tmp_path / "in")
    with pytest.raises(
        BadSourceError, match=r"a.json has 'text' beside 'shapes', ReasonSeg's form: use `coprs data reas"
    ):
        plan(tmp_path / "in")
    (tmp_path / "in/a.json").write_text('{"images": [')
    with pytest.raises(BadSourceError, match=r"A file that cannot be read: .*a.json: broken JSON at line 1"):
        plan(tmp_path / "in")
    (tmp_path / "in/a.json").write_text("[]")
    with pytest.raises(BadSourceError, match=r"found a.jpg, a.json\.$"):
        plan(tmp_path / "in")


def test_options_of_other_forms(tmp_path: Path) -> None:
    table = save_rows(tmp_path / "table", ROW)
    coco = test_coco.save(tmp_path / "coco", (0, 1, test_coco.BOX))
    test_labelme.save(tmp_path / "labelme", "a", test_labelme.shape("x"))
    with pytest.raises(
        BadSourceError, match=r"--question makes questions of labels, but .*questions.jsonl has its own"
    ):
        plan(table, question="{label}")
    with pytest.raises(BadSourceError, match="--per-instance makes questions of labels"):
        plan(table, per_instance=True)
    for folder in (coco, tmp_path / "labelme"):
        with pytest.raises(BadSourceError, match="--mask-value is about PNG masks of a table, and there is no table"):
            plan(folder, mask_value=3)
    with pytest.raises(BadSourceError, match=r"--images .*gone is no folder"):
        plan(table, images=[tmp_path / "gone"])


def test_images_elsewhere(tmp_path: Path) -> None:
    save_rows(tmp_path / "photos")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/t.jsonl").write_text(json.dumps(ROW) + "\n")
    _, summaries = convert(tmp_path / "in", tmp_path / "out", images=[tmp_path / "photos"])
    assert summaries["train"].images == 1
