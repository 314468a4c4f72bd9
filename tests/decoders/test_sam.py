import pytest
import torch
from torch import nn

from coprs_lightning.component import Component
from coprs_lightning.decoders import SamMaskDecoder
from coprs_lightning.geometry import valid_mask
from tests.sam_checkpoint import build_sam, save_sam
from tests.slots import PaddingBlindDecoderTester


class TestSam(PaddingBlindDecoderTester):
    def build(self, **options):
        sizes = {"hidden_size": 16, "num_attention_heads": 2, "mlp_dim": 32, "mask_input_channels": 8}
        return SamMaskDecoder(**{"in_channels": self.in_channels, **sizes, **options})

    def test_batched_equals_one_by_one(self):
        decoder = self.build().eval()
        features, heatmap, valid_sizes, frame = self.inputs()
        with torch.no_grad():
            together = decoder(features, heatmap, valid_sizes, frame)
            for b in range(3):
                for k in range(2):
                    alone = decoder(features[b : b + 1], heatmap[b : b + 1, k : k + 1], valid_sizes[b : b + 1], frame)
                    assert (alone[0, 0] - together[b, k]).abs().max() <= 1e-5

    def test_paper_s_prompt_and_decoder_rates(self):
        decoder = self.build(lr_multiplier=5.0, prompt_lr_multiplier=10.0)
        prompt, rest = decoder.parameter_groups(2e-6, "decoder")
        assert (prompt["name"], prompt["lr"]) == ("decoder/prompt", pytest.approx(2e-5))
        assert (rest["name"], rest["lr"]) == ("decoder", pytest.approx(1e-5))
        assert {id(p) for p in prompt["params"]} == {id(p) for p in decoder.mask_embed.parameters()}
        assert {id(p) for p in rest["params"]} >= {id(p) for p in decoder.mask_decoder.parameters()}

    def test_position_features_are_never_trained(self):
        decoder = self.build()
        frozen = [name for name, p in decoder.named_parameters() if not p.requires_grad]
        assert frozen == ["position_embed.positional_embedding"]

    def test_features_of_the_decoder_s_width_are_not_projected(self):
        assert isinstance(self.build(in_channels=16).project, nn.Identity)
        assert not isinstance(self.build(in_channels=8).project, nn.Identity)

    def test_positions_are_smooth_from_cell_to_cell(self):
        positions = SamMaskDecoder(in_channels=256).grid_positions(64, 64)
        assert positions.shape == (1, 256, 64, 64)
        neighbours = torch.cosine_similarity(positions[..., 1:], positions[..., :-1], dim=1)
        far = torch.cosine_similarity(positions[..., :32], positions[..., 32:], dim=1)
        assert neighbours.min() > 0.9
        assert far.abs().mean() < 0.3

    def test_positions_stay_exact_under_autocast(self):
        decoder = self.build()
        with torch.autocast("cpu", torch.bfloat16):
            under = decoder.grid_positions(8, 8)
        assert torch.equal(under, decoder.grid_positions(8, 8))

    def test_refuses_sizes_that_do_not_divide(self):
        with pytest.raises(ValueError, match="hidden_size 24 must be a multiple of 8 and of num_attention_heads 8"):
            SamMaskDecoder(in_channels=8, hidden_size=24)
        with pytest.raises(ValueError, match=r"mask_input_channels must be a multiple of 4, got 6"):
            self.build(mask_input_channels=6)

    @pytest.mark.parametrize("option", ["hidden_size", "num_layers", "mlp_dim", "in_channels"])
    def test_refuses_sizes_below_one(self, option):
        with pytest.raises(ValueError, match=rf"SamMaskDecoder\.{option} must be a positive integer, got 0"):
            self.build(**{option: 0})


class TestPretrained:
    def inputs(self):
        return torch.randn(2, 16, 8, 8), 3 * torch.randn(2, 1, 32, 32), torch.tensor([[64, 40], [64, 64]])

    def test_equals_transformers_sam_with_the_same_mask_prompt(self, tmp_path):
        sam = save_sam(tmp_path)
        decoder = SamMaskDecoder(in_channels=16, pretrained=str(tmp_path)).eval()
        features, heatmap, valid_sizes = self.inputs()
        filled = torch.where(valid_mask(valid_sizes, (32, 32), 64), heatmap, -50.0)
        with torch.no_grad():
            expected = sam(image_embeddings=features, input_masks=filled, multimask_output=False).pred_masks
            masks = decoder(features, heatmap, valid_sizes, 64)
        assert masks.std() > 0.05
        assert (masks - expected[:, :, 0]).abs().max() <= 1e-5

    def test_equals_the_pieces_of_transformers_called_one_by_one(self, tmp_path):
        sam = save_sam(tmp_path)
        decoder = SamMaskDecoder(in_channels=16, pretrained=str(tmp_path)).eval()
        features, heatmap, valid_sizes = self.inputs()
        filled = torch.where(valid_mask(valid_sizes, (32, 32), 64), heatmap, -50.0)
        with torch.no_grad():
            masks = decoder(features, heatmap, valid_sizes, 64)
            positions = sam.get_image_wide_positional_embeddings()
            torch.testing.assert_close(decoder.grid_positions(8, 8), positions)
            for b in range(2):
                sparse, dense = sam.prompt_encoder(None, None, None, filled[b : b + 1])
                assert sparse is None
                empty = torch.empty(1, 1, 0, 16)  # what the original SAM passes for "no points, no box"
                expected, _ = sam.mask_decoder(features[b : b + 1], positions, empty, dense, multimask_output=False)
                assert (masks[b] - expected[0, 0]).abs().max() <= 1e-5

    def test_unused_parts_are_not_registered(self, tmp_path):
        sam = save_sam(tmp_path)
        names = {name for name, _ in SamMaskDecoder(in_channels=16, pretrained=str(tmp_path)).named_parameters()}
        dropped = {n.removeprefix("prompt_encoder.") for n, _ in sam.named_parameters()} - names
        dropped = {n for n in dropped if not n.startswith("vision_encoder")}
        kinds = ("shared_", "no_mask_embed", "point_embed", "not_a_point_embed", "mask_decoder.iou_prediction_head")
        further = tuple(f"mask_decoder.output_hypernetworks_mlps.{i}" for i in (1, 2, 3))
        assert dropped
        assert {n for n in dropped if not n.startswith(kinds + further)} == set()

    def test_save_and_load(self, tmp_path):
        save_sam(tmp_path)
        decoder = SamMaskDecoder(in_channels=16, pretrained=str(tmp_path)).eval()
        decoder.save(tmp_path / "part.pt")
        loaded = Component.load(tmp_path / "part.pt").eval()
        features, heatmap, valid_sizes = self.inputs()
        with torch.no_grad():
            assert torch.equal(
                decoder(features, heatmap, valid_sizes, 64),
                loaded(features, heatmap, valid_sizes, 64),
            )

    @pytest.mark.parametrize("missing", ["mask_decoder.upscale_conv1", "prompt_encoder.mask_embed.conv3"])
    def test_refuses_a_checkpoint_that_lacks_weights(self, tmp_path, missing):
        save_sam(tmp_path, without=missing)
        with pytest.raises(ValueError, match=rf"SamMaskDecoder\.pretrained: .* lacks 2 weights of SAM \({missing}"):
            SamMaskDecoder(in_channels=16, pretrained=str(tmp_path))

    def test_refuses_a_checkpoint_whose_weights_have_other_sizes(self, tmp_path):
        save_sam(tmp_path)
        config = build_sam().config
        config.mask_decoder_config.mlp_dim = 48
        config.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"mask_decoder\.transformer\.layers"):
            SamMaskDecoder(in_channels=16, pretrained=str(tmp_path))
