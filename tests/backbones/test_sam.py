import pytest
import torch
from transformers import SamImageProcessor

from coprs_lightning.backbones import SamBackbone, SamVisionOptions
from coprs_lightning.component import Component
from tests.sam_checkpoint import IMAGE_SIZE, save_sam
from tests.slots import BackboneTester

SMALL = SamVisionOptions(
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    patch_size=8,
    output_channels=16,
    window_size=3,
    global_attn_indexes=(1,),
    mlp_dim=32,
)


class TestSam(BackboneTester):
    def build(self, **options):
        return SamBackbone(**{"config": SMALL, "image_size": self.image_size, **options})

    def test_sizes_follow_the_options(self):
        backbone = self.build()
        assert (backbone.out_channels, backbone.stride, backbone.image_size) == (16, 8, 64)
        assert len(backbone.encoder.vision_encoder.layers) == 2

    def test_random_features_tell_images_apart(self):
        frames, valid_sizes = self.inputs()
        features = self.build()(frames, valid_sizes)
        assert (features[0] - features[1]).abs().mean() > 0.01

    def test_refuses_an_image_size_that_cuts_patches(self):
        with pytest.raises(ValueError, match=r"SamBackbone\.image_size 60 is no multiple of the patch size 8.* Use 56"):
            self.build(image_size=60)

    def test_refuses_heads_that_do_not_divide(self):
        with pytest.raises(ValueError, match=r"config\.hidden_size 24 is no multiple of num_attention_heads 5"):
            self.build(config=SamVisionOptions(hidden_size=24, num_attention_heads=5))

    def test_refuses_sizes_below_one(self):
        with pytest.raises(ValueError, match=r"SamBackbone\.image_size must be a positive integer, got 0"):
            self.build(image_size=0)


class TestPretrained:
    def frames(self, size=IMAGE_SIZE):
        frames = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
        return frames, torch.tensor([[size, size // 2], [size, size]])

    def test_equals_transformers_sam_on_the_same_image(self, tmp_path):
        sam = save_sam(tmp_path)
        backbone = SamBackbone(pretrained=str(tmp_path), image_size=IMAGE_SIZE).eval()
        frames, valid_sizes = self.frames()
        processor = SamImageProcessor(
            size={"longest_edge": IMAGE_SIZE}, pad_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
        )
        images = [frames[0, :, :, : IMAGE_SIZE // 2], frames[1]]
        pixels = processor(images, return_tensors="pt", input_data_format="channels_first")["pixel_values"]
        with torch.no_grad():
            expected = sam.vision_encoder(pixels).last_hidden_state
            features = backbone(frames, valid_sizes)
        assert features.abs().mean() > 0.1
        torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)

    def test_save_and_load(self, tmp_path):
        save_sam(tmp_path)
        backbone = SamBackbone(pretrained=str(tmp_path), image_size=IMAGE_SIZE).eval()
        backbone.save(tmp_path / "part.pt")
        loaded = Component.load(tmp_path / "part.pt").eval()
        inputs = self.frames()
        with torch.no_grad():
            assert torch.equal(backbone(*inputs), loaded(*inputs))

    def test_another_image_size_interpolates_the_positions(self, tmp_path):
        sam = save_sam(tmp_path)
        backbone = SamBackbone(pretrained=str(tmp_path), image_size=2 * IMAGE_SIZE).eval()
        with torch.no_grad():
            assert backbone(*self.frames(2 * IMAGE_SIZE)).shape == (2, 16, 16, 16)
        old, new = sam.vision_encoder, backbone.encoder.vision_encoder
        assert new.pos_embed.shape == (1, 16, 16, 24)
        coarse = new.pos_embed.reshape(1, 8, 2, 8, 2, 24).mean((2, 4))
        correlation = torch.corrcoef(torch.stack([coarse.flatten(), old.pos_embed.flatten()]))[0, 1]
        assert correlation > 0.95
        assert new.layers[1].attn.rel_pos_h.shape == (31, 12)  # global
        assert torch.equal(new.layers[0].attn.rel_pos_h, old.layers[0].attn.rel_pos_h)  # in windows: as it was
        assert torch.equal(new.neck.conv1.weight, old.neck.conv1.weight)

    def test_refuses_a_checkpoint_that_lacks_weights(self, tmp_path):
        save_sam(tmp_path, without="vision_encoder.layers.1.mlp")
        with pytest.raises(ValueError, match=r"SamBackbone\.pretrained: .* lacks 4 weights of SAM's image encoder"):
            SamBackbone(pretrained=str(tmp_path), image_size=IMAGE_SIZE)

    def test_refuses_an_image_size_that_cuts_patches(self, tmp_path):
        save_sam(tmp_path)
        with pytest.raises(ValueError, match="image_size 68 is no multiple of the patch size 8"):
            SamBackbone(pretrained=str(tmp_path), image_size=68)
