"""Original SAM files: what is refused, and the tables of names."""

from __future__ import annotations

import pickle
import re

import pytest
import torch
from torch import nn

from coprs_lightning.backbones import SamBackbone
from coprs_lightning.component import Component
from coprs_lightning.decoders import SamMaskDecoder
from coprs_lightning.decoders.sam_original import UNUSED, original_name, original_names, our_names
from coprs_lightning.sam_original import (
    encoder_names,
    fill,
    is_original,
    prompt_and_decoder_names,
    read_original,
)
from coprs_lightning.spec import build
from tests.sam_original import CHANNELS, IMAGE_SIZE, build_original, save_original

pytest.importorskip("segment_anything", reason="small original files are built by the segment-anything package")


def load_backbone(file):
    return SamBackbone(pretrained=str(file))


def load_decoder(file):
    return SamMaskDecoder(in_channels=CHANNELS, pretrained=str(file))


BOTH = pytest.mark.parametrize("load", [load_backbone, load_decoder])


def test_every_name_of_a_whole_sam_is_known():
    given = set(build_original().state_dict())
    assert given == set(encoder_names(3)) | set(prompt_and_decoder_names(2))


def test_names_are_those_of_transformers():
    from transformers import SamConfig, SamModel

    with torch.device("meta"):
        expected = set(SamModel(SamConfig()).state_dict())
    renamed = {**encoder_names(12), **prompt_and_decoder_names()}
    assert len(set(renamed.values())) == len(renamed)
    assert expected - set(renamed.values()) == {"shared_image_embedding.positional_embedding"}  # tied
    assert set(renamed.values()) <= expected


def test_names_of_our_decoder_go_both_ways():
    names = original_names()
    assert set(names) == set(SamMaskDecoder(in_channels=256).state_dict())
    assert all(our_names()[original] == ours for ours, original in names.items())
    assert set(names.values()) | UNUSED == set(prompt_and_decoder_names())
    assert not UNUSED & set(names.values())
    assert {name: original_name(name) for name in names} == names


def test_a_name_that_is_not_sam_s_has_no_original():
    with pytest.raises(KeyError, match=re.escape("project.0.weight")):
        original_name("project.0.weight")


def test_sizes_come_from_the_tensors(tmp_path):
    save_original(tmp_path / "sam.pth", window=5)
    backbone = load_backbone(tmp_path / "sam.pth")
    assert (backbone.out_channels, backbone.stride, backbone.image_size) == (CHANNELS, 8, IMAGE_SIZE)
    config = backbone.encoder.config
    assert (config.num_attention_heads, config.window_size, config.global_attn_indexes) == (2, 5, [1])
    assert load_decoder(tmp_path / "sam.pth").hidden_size == CHANNELS


def test_windows_as_large_as_the_grid_are_the_grid(tmp_path):
    sam = save_original(tmp_path / "sam.pth", window=8)
    backbone = load_backbone(tmp_path / "sam.pth").eval()
    frames = torch.randint(0, 256, (1, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8)
    with torch.no_grad():
        expected = sam.image_encoder(sam.preprocess(frames.float()))
        torch.testing.assert_close(backbone(frames, torch.tensor([[64, 64]])), expected, atol=1e-4, rtol=1e-4)


@BOTH
def test_weights_in_half_precision_are_used_in_full(load, tmp_path):
    state = {name: value.half() for name, value in build_original().state_dict().items()}
    torch.save(state, tmp_path / "sam.pth")
    assert {p.dtype for p in load(tmp_path / "sam.pth").parameters()} == {torch.float32}


@BOTH
def test_the_other_slot_s_weights_may_be_absent(load, tmp_path):
    wanted = "image_encoder" if load is load_backbone else ("prompt_encoder", "mask_decoder")
    state = {name: value for name, value in build_original().state_dict().items() if name.startswith(wanted)}
    torch.save(state, tmp_path / "sam.pth")
    load(tmp_path / "sam.pth")


@BOTH
@pytest.mark.parametrize("name", ["image_encoder.neck.4.weight", "mask_decoder.extra", "module.pos_embed"])
def test_a_left_over_weight_is_named(load, name, tmp_path):
    torch.save({**build_original().state_dict(), name: torch.zeros(1)}, tmp_path / "sam.pth")
    with pytest.raises(ValueError, match=rf"does not hold exactly the weights of a SAM.*\n  left over: {name}"):
        load(tmp_path / "sam.pth")


@pytest.mark.parametrize(
    ("load", "name"),
    [
        (load_backbone, "image_encoder.blocks.1.attn.rel_pos_w"),
        (load_backbone, "image_encoder.pos_embed"),
        (load_decoder, "mask_decoder.transformer.layers.1.norm4.bias"),
        (load_decoder, "prompt_encoder.no_mask_embed.weight"),
    ],
)
def test_a_missing_weight_is_named(load, name, tmp_path):
    state = build_original().state_dict()
    del state[name]
    torch.save(state, tmp_path / "sam.pth")
    with pytest.raises(ValueError, match=rf"pretrained: .*sam\.pth does not hold exactly .*\n  missing: {name}"):
        load(tmp_path / "sam.pth")


@BOTH
def test_a_file_without_any_layer_is_refused(load, tmp_path):
    state = {name: value for name, value in build_original().state_dict().items() if "ers." not in name}
    state = {name: value for name, value in state.items() if ".blocks." not in name}
    torch.save(state, tmp_path / "sam.pth")
    with pytest.raises(ValueError, match=r"missing: .*\.(blocks|layers)\.0"):
        load(tmp_path / "sam.pth")


def test_a_long_list_is_cut(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "sam.pth")
    with pytest.raises(ValueError, match=r"missing: (?s:.*)… and \d+ more$"):
        load_backbone(tmp_path / "sam.pth")


@pytest.mark.parametrize(
    ("load", "name"),
    [
        (load_backbone, "image_encoder.blocks.2.mlp.lin2.weight"),
        (load_backbone, "image_encoder.neck.3.bias"),
        (load_decoder, "mask_decoder.output_hypernetworks_mlps.0.layers.1.weight"),
        (load_decoder, "prompt_encoder.mask_downscaling.6.weight"),
    ],
)
def test_a_weight_of_another_shape_is_named(load, name, tmp_path):
    state = build_original().state_dict()
    state[name] = torch.zeros(7, *state[name].shape[1:])
    torch.save(state, tmp_path / "sam.pth")
    with pytest.raises(ValueError, match=rf"shapes do not fit each other.*\n  {name} is \(7"):
        load(tmp_path / "sam.pth")


@pytest.mark.parametrize(
    ("load", "name"),
    [(load_backbone, "image_encoder.pos_embed"), (load_decoder, "mask_decoder.mask_tokens.weight")],
)
def test_a_weight_of_other_dimensions_is_named(load, name, tmp_path):
    torch.save({**build_original().state_dict(), name: torch.zeros(3)}, tmp_path / "sam.pth")
    with pytest.raises(ValueError, match=rf"{name} is \(3,\), and has [24] dimensions in SAM"):
        load(tmp_path / "sam.pth")


def test_windows_of_several_sizes_are_refused(tmp_path):
    state = build_original().state_dict()
    state["image_encoder.blocks.2.attn.rel_pos_h"] = torch.zeros(7, 12)
    torch.save(state, tmp_path / "sam.pth")
    with pytest.raises(ValueError, match=r"attention windows of \[3, 4\] cells on a grid of 8"):
        load_backbone(tmp_path / "sam.pth")


@BOTH
def test_code_in_a_file_is_never_run(load, tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    with (tmp_path / "sam.pth").open("wb") as file:
        pickle.dump({"weight": Evil()}, file)
    with pytest.raises(ValueError, match=r"cannot be read as weights \(.*holds code, which is never run\)"):
        load(tmp_path / "sam.pth")
    torch.save({"weight": Evil()}, tmp_path / "sam.pth")
    with pytest.raises(ValueError, match=r"Download it again from the address in segment_anything's README"):
        load(tmp_path / "sam.pth")
    assert not marker.exists()


@pytest.mark.parametrize("content", [{"state_dict": {}}, [torch.zeros(1)], {"a": torch.zeros(1), "epoch": 3}])
def test_a_file_of_anything_else_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "sam.pth")
    with pytest.raises(ValueError, match="does not hold named tensors alone"):
        read_original(tmp_path / "sam.pth", "option")


@BOTH
def test_a_file_that_is_not_there_is_refused(load, tmp_path):
    with pytest.raises(ValueError, match=r"pretrained: there is no file .*absent\.pth"):
        load(tmp_path / "absent.pth")


def test_files_are_told_from_folders_and_hub_ids(tmp_path):
    (tmp_path / "weights.bin").touch()
    assert is_original(tmp_path / "weights.bin")
    assert is_original("somewhere/sam_vit_h_4b8939.pth")
    assert not is_original(tmp_path)
    assert not is_original("facebook/sam-vit-huge")


def test_filling_names_the_original():
    with pytest.raises(ValueError, match=r"file holds weights whose .*\n  old is \(3,\), the model's bias is \(2,\)"):
        fill(nn.LayerNorm(2), {"weight": torch.ones(2), "bias": torch.ones(3)}, {"weight": "w", "bias": "old"}, "file")


@BOTH
def test_the_portable_spec_rebuilds_the_part_without_the_file(load, tmp_path):
    save_original(tmp_path / "sam.pth")
    part: Component = load(tmp_path / "sam.pth")
    (tmp_path / "sam.pth").unlink()
    spec = part.portable_spec()
    assert spec["init_args"]["pretrained"] is None
    again = build(spec).eval()
    again.load_state_dict(part.state_dict())
    features = torch.randn(2, CHANNELS, 8, 8)
    frames = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    valid_sizes = torch.tensor([[64, 40], [64, 64]])
    inputs = (frames, valid_sizes) if load is load_backbone else (features, features[:, :1], valid_sizes, 64)
    with torch.no_grad():
        assert torch.equal(again(*inputs), part.eval()(*inputs))
    assert again.portable_spec() == spec


def test_another_image_size_interpolates_the_positions(tmp_path):
    save_original(tmp_path / "sam.pth")
    backbone = SamBackbone(pretrained=str(tmp_path / "sam.pth"), image_size=96)
    assert backbone.encoder.vision_encoder.pos_embed.shape == (1, 12, 12, 24)
    assert backbone.portable_spec()["init_args"]["image_size"] == 96
