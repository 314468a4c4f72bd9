import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig

from coprs_lightning.backbones import HFBackbone, Preprocessing
from coprs_lightning.spec import build
from tests.backbones.hf_checkpoints import MODELS, save
from tests.slots import BackboneTester

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


class HFTester(BackboneTester):
    name: str

    @pytest.fixture(autouse=True)
    def _saved(self, tmp_path):
        self.folder = tmp_path / "model"
        save(self.name, self.folder)

    def build(self, **options):
        return HFBackbone(**{"model": str(self.folder), "image_size": self.image_size, **options})


class TestDINOv3(HFTester):
    name = "dinov3"

    def test_class_and_register_tokens_are_left_out(self):
        backbone = self.build().eval()
        assert backbone.encoder.config.num_register_tokens == 4
        tokens = []
        backbone.encoder.norm.register_forward_hook(lambda _, __, output: tokens.append(output))
        with torch.no_grad():
            features = self.run(backbone, self.inputs())
        assert tokens[-1].shape == (3, 1 + 4 + 16, 24)
        assert torch.equal(features.flatten(2).transpose(1, 2), tokens[-1][:, 5:])


class TestSam2(HFTester):
    name = "sam2"

    @pytest.mark.parametrize(("level", "stride"), [(-1, 16), (2, 16), (1, 8), (0, 4)])
    def test_levels_of_the_pyramid(self, level, stride):
        backbone = self.build(level=level).eval()
        assert (backbone.stride, backbone.out_channels) == (stride, 16)
        assert self.run(backbone, self.inputs()).shape == (3, 16, 64 // stride, 64 // stride)


class TestConvNext(HFTester):
    name = "dinov3_convnext"


def pixels_of(frames, how):
    mean, std = (torch.tensor(values)[:, None, None] for values in (how["mean"], how["std"]))
    return (frames.float() / 255 - mean) / std


@pytest.mark.parametrize(
    ("name", "reference", "stride", "size", "how"),
    [
        ("dinov3", lambda m, p: m(p).last_hidden_state[:, 5:], 16, 80, IMAGENET),
        ("dinov2", lambda m, p: m(p).last_hidden_state[:, 1:], 14, 84, IMAGENET),
        ("dinov2_with_registers", lambda m, p: m(p).last_hidden_state[:, 4:], 14, 84, IMAGENET),
        ("sam2", lambda m, p: m.vision_encoder(p).fpn_hidden_states[-1], 16, 128, IMAGENET),
        ("sam2_vision", lambda m, p: m(p).fpn_hidden_states[-1], 16, 64, IMAGENET),
        ("vit", lambda m, p: m(p, interpolate_pos_encoding=True).last_hidden_state[:, 1:], 14, 84, HALF),
        (
            "siglip",
            lambda m, p: m.vision_model(p, interpolate_pos_encoding=True).last_hidden_state,
            14,
            84,
            HALF,
        ),
        ("dinov3_convnext", lambda m, p: m(p, output_hidden_states=True).hidden_states[-1], 32, 64, IMAGENET),
    ],
)
def test_features_are_those_of_the_model_itself(name, reference, stride, size, how, tmp_path):
    model = save(name, tmp_path)
    backbone = HFBackbone(model=str(tmp_path), image_size=size).eval()
    frames = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    with torch.no_grad():
        expected = reference(model, pixels_of(frames, how))
        features = backbone(frames, torch.tensor([[size, size]] * 2))
    if expected.ndim == 3:
        expected = expected.transpose(1, 2).unflatten(-1, (size // stride, size // stride))
    assert (backbone.stride, backbone.out_channels) == (stride, features.shape[1])
    assert features.std() > 0.01
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "size", "how"),
    [("dinov3", 224, IMAGENET), ("dinov2", 56, IMAGENET), ("sam2", 64, IMAGENET), ("vit", 224, HALF)],
)
def test_declares_what_the_image_processor_records(name, size, how, tmp_path):
    save(name, tmp_path)
    assert HFBackbone(model=str(tmp_path)).preprocessing == Preprocessing(**how, image_size=size, padding=0.0)


def test_statistics_are_of_pixels_from_0_to_1_however_the_processor_rescales_them(tmp_path):
    save("dinov3", tmp_path)
    file = tmp_path / "preprocessor_config.json"
    recorded = json.loads(file.read_text())
    file.write_text(json.dumps({**recorded, "do_rescale": False, "image_mean": [51, 102, 153], "image_std": [255] * 3}))
    how = HFBackbone(model=str(tmp_path)).preprocessing
    assert (how.mean, how.std) == (pytest.approx((0.2, 0.4, 0.6)), pytest.approx((1, 1, 1)))
    file.write_text(json.dumps({**recorded, "do_normalize": False}))
    how = HFBackbone(model=str(tmp_path)).preprocessing
    assert (how.mean, how.std) == ((0, 0, 0), (1, 1, 1))


def test_options_stand_in_for_an_image_processor(tmp_path):
    save("dinov3", tmp_path, with_processor=False)
    with pytest.raises(ValueError, match=r"no image processor that tells its mean and std and image_size \(prepro"):
        HFBackbone(model=str(tmp_path))
    with pytest.raises(ValueError, match=r"tells its std .*or set std\."):
        HFBackbone(model=str(tmp_path), mean=(0.1, 0.2, 0.3), image_size=32)
    how = HFBackbone(model=str(tmp_path), mean=(0.1, 0.2, 0.3), std=(1, 2, 3), image_size=32).preprocessing
    assert how == Preprocessing((0.1, 0.2, 0.3), (1, 2, 3), 32)


def test_a_processor_of_images_that_are_not_square_asks_for_a_size(tmp_path):
    save("dinov3", tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "size": {"height": 64, "width": 96}}))
    with pytest.raises(ValueError, match=r"tells its image_size .*or set image_size\."):
        HFBackbone(model=str(tmp_path))


def rewrite(folder: Path, change) -> None:
    """Change the weights of a saved model."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


class TestStrict:
    def test_missing_weights_are_named(self, tmp_path):
        save("dinov3", tmp_path)
        rewrite(tmp_path, lambda weights: weights.pop("embeddings.register_tokens"))
        with pytest.raises(ValueError, match=r"not those of the DINOv3ViT.* \(missing: embeddings\.register_tokens\)"):
            HFBackbone(model=str(tmp_path), image_size=32)

    def test_missing_weights_of_a_tower_are_named(self, tmp_path):
        save("sam2", tmp_path)
        rewrite(tmp_path, lambda weights: weights.pop("vision_encoder.neck.convs.1.bias"))
        with pytest.raises(ValueError, match=r"Sam2VisionModel .*\(missing: neck\.convs\.1\.bias\)"):
            HFBackbone(model=str(tmp_path))

    def test_weights_of_another_shape_are_named(self, tmp_path):
        save("dinov3", tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 40}))
        with pytest.raises(ValueError, match=r"of another shape: .*mlp\..* and \d+ more\)"):
            HFBackbone(model=str(tmp_path), image_size=32)

    def test_layers_that_the_configuration_leaves_out_are_named(self, tmp_path):
        save("dinov2", tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        for key in ("out_features", "out_indices", "stage_names"):
            config.pop(key)
        (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
        with pytest.raises(ValueError, match=r"left over: encoder\.layer\.1"):
            HFBackbone(model=str(tmp_path), image_size=56)

    def test_other_towers_and_heads_are_left_out(self, tmp_path, caplog):
        save("sam2", tmp_path)
        with caplog.at_level(logging.INFO, "coprs_lightning"):
            backbone = HFBackbone(model=str(tmp_path))
        assert "weights of other towers and heads are left out, e.g. mask_decoder" in caplog.text
        assert all(name.startswith(("encoder.backbone.", "encoder.neck.")) for name in backbone.state_dict())


@pytest.mark.parametrize("name", MODELS)
def test_the_portable_spec_rebuilds_it_from_its_assets_alone(name, tmp_path):
    save(name, tmp_path / "source")
    backbone = HFBackbone(model=str(tmp_path / "source"), image_size=224, lr_multiplier=2.0).eval()
    (tmp_path / "source").rename(tmp_path / "gone")
    backbone.save_assets(tmp_path / "backbone")
    spec = backbone.portable_spec()
    assert spec["init_args"]["model"] == "backbone"
    placed = {**spec, "init_args": {**spec["init_args"], "model": str(tmp_path / "backbone")}}
    again = build(placed).eval()
    again.load_state_dict(backbone.state_dict())
    assert again.preprocessing == backbone.preprocessing
    assert again.lr_multiplier == 2.0
    assert again.portable_spec() == spec
    assert again.assets() == backbone.assets()
    frames = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)
    with torch.no_grad():
        valid_sizes = torch.tensor([[224, 100]])
        assert torch.equal(again(frames, valid_sizes), backbone(frames, valid_sizes))


@pytest.mark.parametrize("name", MODELS)
def test_is_built_without_memory(name, tmp_path):
    save(name, tmp_path)
    with torch.device("meta"):
        backbone = HFBackbone(model=str(tmp_path), random_weights=True, image_size=224)
    assert all(p.is_meta for p in backbone.parameters())
    loaded = HFBackbone(model=str(tmp_path), image_size=224)
    assert [p.shape for p in backbone.parameters()] == [p.shape for p in loaded.parameters()]


def test_random_weights_are_not_the_saved_ones(tmp_path):
    save("dinov3", tmp_path)
    loaded, fresh = (HFBackbone(model=str(tmp_path), random_weights=kind, image_size=32) for kind in (False, True))
    name = "encoder.model.layer.0.mlp.up_proj.weight"
    assert loaded.state_dict().keys() == fresh.state_dict().keys()
    assert not torch.allclose(loaded.state_dict()[name], fresh.state_dict()[name])


def test_a_layer_before_the_last(tmp_path):
    model = save("dinov3", tmp_path)
    backbone = HFBackbone(model=str(tmp_path), image_size=32, level=1).eval()
    frames = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        output = model(pixels_of(frames, IMAGENET), output_hidden_states=True)
        expected = model.norm(output.hidden_states[1])[:, 5:].transpose(1, 2).unflatten(-1, (2, 2))
        torch.testing.assert_close(backbone(frames, torch.tensor([[32, 32]])), expected)
    unused = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    assert {name for name, _ in backbone.named_parameters() if ".layer.1." in name} <= unused
    assert not any(".layer.0." in name for name in unused)


class TestRefused:
    def test_a_model_that_is_nowhere(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(ValueError, match=r"HFBackbone\.model: .*absent is no folder of a transformers model"):
            HFBackbone(model=str(tmp_path / "absent"))

    def test_a_model_that_sees_nothing(self, tmp_path):
        BertConfig().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="transformers has no vision model for a BertConfig"):
            HFBackbone(model=str(tmp_path), random_weights=True, image_size=32, **HALF)

    @pytest.mark.parametrize("level", [9, -9])
    def test_a_level_it_does_not_have(self, level, tmp_path):
        save("dinov3", tmp_path)
        with pytest.raises(ValueError, match=rf"HFBackbone\.level: .* has no feature grid {level}; it has 3 \(stem, "):
            HFBackbone(model=str(tmp_path), level=level)

    def test_a_level_of_the_pyramid_it_does_not_have(self, tmp_path):
        save("sam2", tmp_path)
        with pytest.raises(ValueError, match=r"Sam2VisionModel gives no feature grid 7 for frames of 64 × 64 pixels"):
            HFBackbone(model=str(tmp_path), level=7)

    @pytest.mark.parametrize(
        ("name", "size"),
        [("dinov3", 60), ("dinov3", 136), ("dinov3", 8), ("dinov2", 64), ("vit", 60), ("dinov3_convnext", 112)],
    )
    def test_an_image_size_that_leaves_pixels_out(self, name, size, tmp_path):
        save(name, tmp_path)
        with pytest.raises(ValueError, match=rf"(image_size {size} gives .* a feature grid of|frames of {size} × )"):
            HFBackbone(model=str(tmp_path), image_size=size)

    def test_sizes_below_one(self, tmp_path):
        with pytest.raises(ValueError, match=r"HFBackbone\.image_size must be a positive integer, got 0"):
            HFBackbone(model=str(tmp_path), image_size=0)
