import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coprs_lightning.explain import explain, read_heatmap, write
from coprs_lightning.explain.writing import as_plain
from tests.explain.build import QUESTION, explanation, photo, reading, speaking_model, square, target


def test_the_folder(tmp_path: Path):
    found = explain(speaking_model(), photo(), QUESTION, target=target(), box=(0, 0, 20, 20))
    names = write(found, tmp_path / "new" / "o", checkpoint="c", image="i.png")
    assert sorted(names) == sorted(file.name for file in (tmp_path / "new" / "o").iterdir())
    numbers = json.loads((tmp_path / "new" / "o" / "explanation.json").read_text())
    assert (numbers["checkpoint"], numbers["image"], numbers["question"]) == ("c", "i.png", QUESTION)
    assert numbers["answer"]["iou_with_target"] == found.original.iou_target
    assert [one["name"] for one in numbers["counterfactuals"]] == [one.name for one in found.counterfactuals]
    assert [one["probability"] for one in numbers["tokens"]] == [word.probability for word in found.words]
    assert numbers["gradient"]["region"] == "target"
    assert len(numbers["head_maps"]) == 4
    assert numbers["drawn_logits"] == {"inside": found.levels.inside, "outside": found.levels.outside}
    assert numbers["image_size"] == {"width": 60, "height": 40}
    assert Image.open(tmp_path / "new" / "o" / "explanation.png").width > 1000


def test_both_heatmaps_can_be_given_back(tmp_path: Path):
    found = explain(speaking_model(), photo(), QUESTION, leave_out=0)
    write(found, tmp_path)
    exact = read_heatmap(tmp_path / "heatmap.npy", (40, 60))
    assert torch.equal(exact, torch.from_numpy(found.heatmap_logits))
    drawn = read_heatmap(tmp_path / "heatmap.png", (40, 60), found.levels)
    np.testing.assert_allclose(drawn[0].sigmoid(), found.original.heatmap.clip(0, drawn.sigmoid().max()), atol=0.004)


def test_heatmaps_of_an_earlier_answer_go(tmp_path: Path):
    write(explanation(), tmp_path)
    assert (tmp_path / "heatmap.png").is_file()
    names = write(explanation(heatmap_logits=np.zeros((0, 8, 8), dtype=np.float32)), tmp_path)
    assert sorted(names) == sorted(file.name for file in tmp_path.iterdir())
    assert not (tmp_path / "heatmap.npy").exists()


def test_numbers_are_those_of_the_readings():
    half = reading(heatmap=np.full((8, 8), 0.25, dtype=np.float32), before=square(8, 0, 2))
    plain = as_plain(explanation(original=half))["answer"]
    assert (plain["heatmap_peak"], plain["heatmap_share_above_half"], plain["mask_share"]) == (0.25, 0.25, 0.5)
    assert plain["iou_before_and_after_decoder"] == 0.5
    assert plain["iou_with_target"] is None


@pytest.mark.realdata
def test_a_real_photo(realdata: Path, tmp_path: Path):
    image = realdata / "photos_sam" / "dog.jpg"
    found = explain(speaking_model(), image, "Where is the dog?", box=(0, 200, 400, 500))
    write(found, tmp_path, image=image.name)
    height, width = np.asarray(Image.open(image)).shape[:2]
    assert np.asarray(Image.open(tmp_path / "heatmap.png")).shape == (height, width)
    assert read_heatmap(tmp_path / "heatmap.npy", (height, width)).shape == (1, height, width)
    assert (tmp_path / "explanation.html").stat().st_size < 3_000_000
