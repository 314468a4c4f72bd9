import numpy as np

from callbacks.drawing import PREDICTION_COLOR, TRUTH_COLOR
from coprs_lightning.explain.explanation import BOX, WITHOUT_THOUGHT, HeadMap
from coprs_lightning.explain.pictures import ANSWER_COLOR, display, drawn, sections
from tests.explain.build import explanation, reading, square


def shown(pixels, colour):
    return (pixels == np.array(colour)).all(-1).sum()


def test_sections_and_captions():
    target = square(8, 0, 6)
    original = reading(iou_target=0.667, before_iou_target=0.5, inside_target=1.0)
    others = [
        reading(WITHOUT_THOUGHT, mask=square(8, 4, 8), iou=0.0, iou_target=0.25),
        reading(BOX, present=False, iou=0.0),
    ]
    maps = [HeadMap("head 1", 1, np.linspace(-2, 1, 64, dtype=np.float32).reshape(8, 8))]
    gradient = np.zeros((8, 8), dtype=np.float32)
    gradient[2, 2] = 5.0
    found = sections(
        explanation(
            original=original,
            counterfactuals=others,
            target=target,
            head_maps=maps,
            heatmap_gradient=gradient,
            soft_iou=0.4,
        )
    )
    answer, inside, what_if = found
    assert [picture.title for picture in answer.pictures][1:] == [
        "heatmap", "mask before the decoder", "mask after the decoder"
    ]  # fmt: skip
    assert answer.pictures[3].caption == "IoU with target 0.67 · 50.0% of image"
    assert answer.pictures[1].caption == "peak 0.90, 100% in the target"
    assert [picture.caption for picture in inside.pictures] == ["-2.00 … 1.00", "soft IoU 0.40 with the mask"]
    assert [picture.title for picture in what_if.pictures] == [WITHOUT_THOUGHT, "→ mask", BOX, "→ mask"]
    assert what_if.pictures[1].caption == "IoU with answer 0.00, with target 0.25"
    assert what_if.pictures[2].caption == "no concentration token, no heatmap"
    assert "green contour: the target" in what_if.remark
    assert all(picture.pixels.dtype == np.uint8 for section in found for picture in section.pictures)
    assert shown(answer.pictures[0].pixels, TRUTH_COLOR) > 100


def test_without_target_the_answer_is_outlined_beside_other_masks():
    found = sections(explanation(counterfactuals=[reading(WITHOUT_THOUGHT, mask=square(8, 6, 8), iou=0.0)]))
    assert [section.title for section in found] == ["The answer", "What if"]
    mask = found[1].pictures[1].pixels
    assert shown(mask, ANSWER_COLOR) > 100
    assert shown(mask, PREDICTION_COLOR) > 100
    assert "yellow contour" in found[1].remark


def test_slots_are_told_apart_and_doubt_is_said():
    maps = [HeadMap("cosine", slot, np.zeros((8, 8), dtype=np.float32)) for slot in (1, 3)]
    found = sections(explanation(head_maps=maps, original=reading(objects=0)))
    assert [picture.title for picture in found[1].pictures] == ["cosine, token 1", "cosine, token 3"]
    assert found[0].pictures[1].caption == "no token is confident of an object"


def test_signs_have_colours():
    values = np.zeros((8, 8), dtype=np.float32)
    values[:, :3], values[:, 5:] = -1.0, 1.0
    found = sections(explanation(head_maps=[HeadMap("m", 1, values)], original=reading(mask=np.zeros((8, 8), bool))))
    pixels = found[1].pictures[0].pixels.astype(int)
    left, right = pixels[200, 30], pixels[200, 370]
    assert left[2] > left[0] + 50
    assert right[0] > right[2] + 50


def test_display_keeps_the_aspect():
    assert display(np.zeros((300, 1200, 3), dtype=np.uint8)).shape == (100, 400, 3)
    assert display(np.zeros((20, 10), dtype=np.float32)).shape == (400, 200)


def test_drawing_leaves_the_pixels_that_it_got():
    pixels = np.zeros((400, 400, 3), dtype=np.uint8)
    assert drawn(pixels, [(square(8, 0, 4), TRUTH_COLOR)]).any()
    assert not pixels.any()
