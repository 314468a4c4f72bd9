from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coprs_lightning.decoders import UpsampleDecoder
from coprs_lightning.explain import Levels, View, box_heatmap, mask_heatmap, read_heatmap, segment_with_heatmap
from coprs_lightning.explain.heatmaps import check_decoder, check_heatmap
from coprs_lightning.structures import NO_PRIOR_LOGIT
from tests.explain.build import photo, speaking_model
from tests.parts import CHANNELS, small_model

SIZE = (40, 60)


class TestLevels:
    def test_medians_of_both_signs_without_padding(self):
        logits = torch.tensor([[1.0, 3.0, 30.0, -7.0, -8.0, -9.0, NO_PRIOR_LOGIT]])
        assert Levels.of(logits) == Levels(3.0, -8.0)

    def test_what_a_heatmap_does_not_have_is_the_default(self):
        assert Levels.of(torch.tensor([-5.0])) == Levels(Levels.inside, -5.0)
        assert Levels.of(torch.full((2, 2), NO_PRIOR_LOGIT)) == Levels()

    def test_a_vague_heatmap_does_not_make_boxes_vague(self):
        assert Levels.of(torch.tensor([0.1, -0.1])) == Levels(2.0, -4.0)

    def test_probabilities_become_logits_and_certainty_the_levels(self):
        found = Levels(3.0, -9.0).logits(np.array([0.0, 0.25, 0.5, 1.0]))
        np.testing.assert_allclose(found, [-9.0, np.log(1 / 3), 0.0, 3.0], atol=1e-6)


class TestBox:
    def test_inside_and_outside(self):
        logits = box_heatmap((10, 5, 20, 8), SIZE, Levels(2.0, -3.0))
        assert logits.shape == SIZE
        assert (logits == 2.0).sum() == 30
        assert (logits[5:8, 10:20] == 2.0).all()
        assert (logits == -3.0).sum() == 40 * 60 - 30

    def test_the_whole_image_is_a_box(self):
        assert (box_heatmap((0, 0, 60, 40), SIZE) == Levels.inside).all()

    @pytest.mark.parametrize(
        ("box", "message"),
        [
            ((0, 0, 61, 40), r"box 0,0,61,40 reaches outside of the image, which is 60 pixels wide and 40 high"),
            ((-1, 0, 6, 4), "reaches outside of the image"),
            ((10, 10, 10, 20), "box 10,10,10,20 holds no pixel: right must be above left"),
            ((1, 2, 3), "has 3 numbers; it needs left,top,right,bottom"),
        ],
    )
    def test_boxes_that_do_not_fit_are_refused(self, box, message):
        with pytest.raises(ValueError, match=message):
            box_heatmap(box, SIZE)


def test_a_mask_as_a_heatmap():
    mask = np.zeros(SIZE, dtype=bool)
    mask[3:5] = True
    assert torch.equal(mask_heatmap(mask) > 0, torch.from_numpy(mask))


class TestRead:
    def save(self, folder: Path, pixels: np.ndarray) -> Path:
        Image.fromarray(pixels).save(folder / "drawn.png")
        return folder / "drawn.png"

    def test_grey_is_probability(self, tmp_path: Path):
        pixels = np.zeros(SIZE, dtype=np.uint8)
        pixels[0, :3] = (51, 204, 255)
        logits = read_heatmap(self.save(tmp_path, pixels), SIZE, Levels(5.0, -9.0))
        assert logits.shape == (1, *SIZE)
        expected = torch.tensor([np.log(0.25), np.log(4.0), 5.0, -9.0], dtype=torch.float32)
        torch.testing.assert_close(logits[0, 0, :4], expected)

    def test_arrays_hold_logits_as_they_are(self, tmp_path: Path):
        values = np.random.default_rng(0).normal(0, 9, (2, *SIZE)).astype(np.float32)
        np.save(tmp_path / "two.npy", values)
        np.save(tmp_path / "one.npy", values[0].astype(np.float64))
        assert torch.equal(read_heatmap(tmp_path / "two.npy", SIZE), torch.from_numpy(values))
        torch.testing.assert_close(read_heatmap(tmp_path / "one.npy", SIZE), torch.from_numpy(values[:1]))

    def test_files_that_are_none_are_refused(self, tmp_path: Path):
        with pytest.raises(ValueError, match=r"heatmap .*nothing\.png.*there is no image"):
            read_heatmap(tmp_path / "nothing.png", SIZE)
        colours = np.zeros((*SIZE, 3), dtype=np.uint8)
        colours[4, 4] = (200, 20, 20)
        with pytest.raises(ValueError, match="is coloured, and colours are no probabilities"):
            read_heatmap(self.save(tmp_path, colours), SIZE)
        (tmp_path / "text.npy").write_text("no array")
        with pytest.raises(ValueError, match="cannot be read as an array"):
            read_heatmap(tmp_path / "text.npy", SIZE)
        np.save(tmp_path / "bytes.npy", np.zeros(SIZE, dtype=np.uint8))
        with pytest.raises(ValueError, match="holds uint8, not floating-point logits"):
            read_heatmap(tmp_path / "bytes.npy", SIZE)

    def test_pickles_are_not_read(self, tmp_path: Path):
        np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
        with pytest.raises(ValueError, match="cannot be read as an array"):
            read_heatmap(tmp_path / "pickle.npy", SIZE)

    def test_another_size_is_refused_with_both(self, tmp_path: Path):
        with pytest.raises(ValueError, match=r"has the shape \(60, 40\), the image has \(40, 60\)"):
            read_heatmap(self.save(tmp_path, np.zeros((60, 40), dtype=np.uint8)), SIZE)


def test_logits_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        check_heatmap(torch.full((1, 2, 2), torch.inf), (2, 2))


def test_a_model_without_a_decoder_is_refused():
    with pytest.raises(ValueError, match="box replaces the heatmap, but this model has no decoder stage"):
        check_decoder(small_model(decoder=UpsampleDecoder(in_channels=CHANNELS)), "box")
    check_decoder(small_model(), "box")


class TestSegmentWithHeatmap:
    def test_it_is_the_decoder_of_the_placed_map(self):
        model, heatmap = speaking_model(), torch.randn(2, *SIZE)
        view = View(model, photo())
        with torch.no_grad():
            both = segment_with_heatmap(model, photo(), heatmap)
            one = segment_with_heatmap(model, photo(), heatmap[1])
            placed = view.to_grid(heatmap)[None]
            masks = model.decoder(view.features, placed, view.batch.valid_sizes, model.image_size)
        assert both.shape == (2, *SIZE)
        torch.testing.assert_close(one, both[1])
        torch.testing.assert_close(both, view.to_image(masks[0]))

    def test_it_is_differentiable_in_the_heatmap(self):
        """By central differences along a smooth direction."""
        model = speaking_model()
        heatmap = torch.zeros(SIZE, requires_grad=True)
        weights = torch.linspace(-1, 1, 60).expand(SIZE)
        (segment_with_heatmap(model, photo(), heatmap).sigmoid() * weights).sum().backward()
        direction = torch.zeros(SIZE)
        direction[10:30, 15:45] = 1.0
        step = 0.02
        with torch.no_grad():
            ends = [
                (segment_with_heatmap(model, photo(), sign * step * direction).sigmoid() * weights).sum()
                for sign in (1, -1)
            ]
        measured = float(ends[0] - ends[1]) / (2 * step)
        assert abs(measured) > 0.1
        assert float((heatmap.grad * direction).sum()) == pytest.approx(measured, rel=0.02)

    def test_another_size_is_refused(self):
        with pytest.raises(ValueError, match="nobody knows which place is which"):
            segment_with_heatmap(speaking_model(), photo(), torch.zeros(32, 32))
