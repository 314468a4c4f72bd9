import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

from coprs_lightning.backbones import Preprocessing, TimmBackbone
from coprs_lightning.spec import build
from tests.slots import BackboneTester

CONV = {"model_name": "test_resnet", "out_index": 2}
MODELS = {
    "test_resnet": {"out_index": 1},
    "test_convnext": {"out_index": -1},
    "test_vit": {"out_index": -1},
    "test_mambaout": {"out_index": 2},
    "mobilenetv3_small_050": {"out_index": 2},
    "swin_tiny_patch4_window7_224": {
        "out_index": 1,
        "model_kwargs": {"embed_dim": 24, "depths": (1, 1), "num_heads": (2, 2)},
    },
    "hiera_tiny_224": {"out_index": 1, "model_kwargs": {"embed_dim": 24, "num_heads": 1}},
    "sam2_hiera_tiny": {"out_index": 2, "model_kwargs": {"embed_dim": 24, "num_heads": 1}},
    "sam2_hiera_base_plus.fb_r896_2pt1": {
        "out_index": 2,
        "model_kwargs": {"embed_dim": 16, "num_heads": 1, "stages": (1, 1, 2, 1), "global_att_blocks": (3,)},
    },
    "vit_small_patch16_dinov3.lvd1689m": {"model_kwargs": {"embed_dim": 24, "depth": 2, "num_heads": 2}},
    "vit_huge_plus_patch16_dinov3.lvd1689m": {"model_kwargs": {"embed_dim": 24, "depth": 2, "num_heads": 2}},
    "convnext_tiny.dinov3_lvd1689m": {
        "out_index": 2,
        "model_kwargs": {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1)},
    },
    "samvit_base_patch16": {
        "out_index": -1,
        "model_kwargs": {"embed_dim": 24, "depth": 2, "num_heads": 2, "global_attn_indexes": (1,)},
    },
}


class TestConvolutional(BackboneTester):
    def build(self, **options):
        # timm starts residual branches at zero, which hides the layers behind them from gradients
        model_kwargs = {"zero_init_last": False}
        return TimmBackbone(**{**CONV, "image_size": self.image_size, "model_kwargs": model_kwargs, **options})


class TestConvolutionalWithPositions(TestConvolutional):
    def build(self, **options):
        return super().build(position_channels=8, **options)

    def test_positions_are_appended_and_tell_left_from_right(self):
        backbone = self.build()
        assert backbone.out_channels == backbone.feature_channels + 8
        features = self.run(backbone.eval(), self.inputs())
        plain = super().build().eval()
        plain.load_state_dict(backbone.state_dict())
        assert torch.equal(features[:, :-8], self.run(plain, self.inputs()))
        positions = features[0, -8:]
        assert torch.equal(positions, features[1, -8:])
        flat = positions.flatten(1).T
        assert torch.cdist(flat, flat).add(10 * torch.eye(len(flat))).min() > 0.1  # every cell has its own
        # the slowest cosines fall from left to right and from top to bottom, over the whole grid
        assert (positions[2].diff(dim=1) < 0).all()
        assert (positions[6].diff(dim=0) < 0).all()


class TestTransformer(BackboneTester):
    def build(self, **options):
        return TimmBackbone(**{"model_name": "test_vit", "image_size": self.image_size, **options})


class TestChannelsLast(BackboneTester):
    image_size = 56

    def build(self, **options):
        swin = MODELS["swin_tiny_patch4_window7_224"]
        return TimmBackbone(model_name="swin_tiny_patch4_window7_224", image_size=self.image_size, **swin, **options)


@pytest.mark.parametrize("name", MODELS)
def test_any_feature_model_has_the_size_it_declares(name):
    backbone = TimmBackbone(model_name=name, image_size=64, **MODELS[name]).eval()
    frames = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    features = backbone(frames, torch.tensor([[64, 64]]))
    assert features.shape == (1, backbone.out_channels, 64 // backbone.stride, 64 // backbone.stride)
    assert features.isfinite().all()


@pytest.mark.parametrize(
    ("name", "stride", "image_size"),
    [
        ("sam2_hiera_base_plus.fb_r896_2pt1", 16, 896),
        ("vit_small_patch16_dinov3.lvd1689m", 16, 256),
        ("convnext_tiny.dinov3_lvd1689m", 16, 224),
        ("samvit_base_patch16", 16, 1024),
    ],
)
def test_declares_the_preprocessing_that_timm_records(name, stride, image_size):
    backbone = TimmBackbone(model_name=name, **MODELS[name])
    assert backbone.stride == stride
    assert backbone.image_size == image_size
    assert backbone.preprocessing == Preprocessing(
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), image_size=image_size, padding=0.0
    )


def test_weights_of_a_file_are_loaded(tmp_path):
    model = timm.create_model("test_vit")
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    source = {"pretrained_cfg_overlay": {"file": str(tmp_path / "vit.pth"), "mean": (0.1, 0.2, 0.3)}}
    backbone = TimmBackbone(model_name="test_vit", pretrained=True, image_size=160, model_kwargs=source).eval()
    frames = torch.randint(0, 256, (1, 3, 160, 160), dtype=torch.uint8)
    with torch.no_grad():
        pixels = (frames.float() / 255 - 0.5) / 0.5
        expected = model.eval().forward_intermediates(pixels, indices=[-1], intermediates_only=True)[0]
        torch.testing.assert_close(backbone(frames, torch.tensor([[160, 160]])), expected)


def test_the_portable_spec_rebuilds_it_without_weights():
    backbone = TimmBackbone(**CONV, mean=(0.0, 0.1, 0.2), position_channels=8, frozen=True)
    spec = {**backbone.portable_spec()}
    assert spec["init_args"]["pretrained"] is False
    assert spec["init_args"]["image_size"] == 160
    again = build(spec)
    again.load_state_dict(backbone.state_dict())
    assert again.preprocessing == backbone.preprocessing
    assert again.frozen
    assert again.portable_spec() == spec


def test_normalises_by_the_model_s_own_statistics_and_then_pads_with_zero():
    seen = []
    backbone = TimmBackbone(model_name="test_vit", image_size=32)
    backbone.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    backbone(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8), torch.tensor([[32, 20]]))
    assert backbone.preprocessing.mean == (0.5, 0.5, 0.5)
    torch.testing.assert_close(seen[0][..., :20], torch.ones(1, 3, 32, 20))
    assert (seen[0][..., 20:] == 0).all()
    imagenet = TimmBackbone(model_name="resnet18", image_size=32)
    assert imagenet.preprocessing.mean == (0.485, 0.456, 0.406)
    assert imagenet.preprocessing.std == (0.229, 0.224, 0.225)


def test_mean_and_std_can_be_set():
    backbone = TimmBackbone(**CONV, image_size=32, mean=(0.0, 0.1, 0.2), std=(1.0, 2.0, 3.0))
    seen = []
    backbone.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    backbone(torch.full((1, 3, 32, 32), 51, dtype=torch.uint8), torch.tensor([[32, 32]]))
    torch.testing.assert_close(seen[0][0, :, 0, 0], torch.tensor([0.2, 0.05, 0.0]))


@pytest.mark.parametrize(
    ("name", "close"),
    [("resnet81", "resnet18"), ("samvit_base_patch61", "samvit_base_patch16"), ("resnet18.a1", r"resnet18\.a1_in1k")],
)
def test_an_unknown_model_is_refused_with_close_names(name, close):
    with pytest.raises(ValueError, match=rf"TimmBackbone\.model_name: timm .* has no model '{name}'.*{close}"):
        TimmBackbone(model_name=name, image_size=64)


@pytest.mark.parametrize("out_index", [9, -9])
def test_a_level_the_model_does_not_have_is_refused(out_index):
    with pytest.raises(ValueError, match=rf"TimmBackbone\.out_index: test_resnet has no feature level {out_index}"):
        TimmBackbone(model_name="test_resnet", image_size=64, out_index=out_index)


def test_an_image_size_that_cuts_cells_is_refused():
    with pytest.raises(ValueError, match=r"TimmBackbone\.image_size 60 is no multiple of .* stride 8 .* Use 56"):
        TimmBackbone(**CONV, image_size=60)


@pytest.mark.parametrize("channels", [-4, 6])
def test_position_channels_that_are_no_multiple_of_four_are_refused(channels):
    with pytest.raises(ValueError, match=rf"position_channels must be a multiple of 4 .* got {channels}"):
        TimmBackbone(**CONV, image_size=64, position_channels=channels)


def test_features_of_an_undeclared_size_are_refused():
    backbone = TimmBackbone(**CONV, image_size=64)
    backbone.feature_channels += 1
    with pytest.raises(ValueError, match=r"expected features of .* by the model's feature_info and got"):
        backbone(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.tensor([[64, 64]]))


def test_importing_the_slot_does_not_import_timm():
    code = "import sys, coprs_lightning.backbones; sys.exit('timm' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
