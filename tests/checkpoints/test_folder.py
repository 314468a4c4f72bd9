"""Exported folders: exact, strict, and without running what others wrote."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from coprs_lightning.aggregators import LastTokenAggregator
from coprs_lightning.backbones import SamBackbone
from coprs_lightning.checkpoints import load_model
from coprs_lightning.checkpoints.folder import is_exported, write_folder
from coprs_lightning.commands import CommandError
from coprs_lightning.decoders import SamMaskDecoder
from coprs_lightning.heatmap_heads import CrossAttentionHead
from coprs_lightning.importing import check_allowed
from coprs_lightning.model import CoprsModel, batch_from_images
from coprs_lightning.policies import HFPolicy
from tests.parts import photos, small_batch, small_model, small_policy
from tests.sam_checkpoint import IMAGE_SIZE, save_sam


def trained(model: CoprsModel, steps: int = 2) -> CoprsModel:
    """The model after a few steps that change every weight that can be trained."""
    batch = small_batch(2)
    features = torch.randn(2, model.backbone.out_channels, 8, 8)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-3)
    for _ in range(steps):
        prompts = model.policy.encode_prompts(batch.images, batch.questions)
        output = model(batch, prompts, model.policy.encode_completions(["red", "it is red"]), features)
        optimizer.zero_grad()
        (output.mask_logits.square().mean() + output.heatmap_logits.square().mean()).backward()
        optimizer.step()
    return model.eval()


def masks(model: CoprsModel) -> torch.Tensor:
    """Logits from written thoughts: a policy that is hardly trained writes no concentration token."""
    batch = batch_from_images(photos((40, 60), (33, 20)), ["the red one", "the other"], model.image_size)
    prompts = model.policy.encode_prompts(batch.images, batch.questions)
    with torch.no_grad():
        output = model(batch, prompts, model.policy.encode_completions(["red", "it is red"]))
    assert output.present.all()
    return torch.cat([output.mask_logits.flatten(), output.heatmap_logits.flatten()])


def write(model: CoprsModel, folder: Path) -> Path:
    folder.mkdir()
    write_folder(model, {"max_new_tokens": 5}, folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(small_model(), tmp_path_factory.mktemp("folder") / "exported")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "copy")


def pretrained_model(sources: Path) -> CoprsModel:
    """Policy, backbone and decoder loaded from checkpoints in public formats."""
    start = small_policy()
    start.lm.save_pretrained(sources / "policy")
    start.processor.save_pretrained(sources / "policy")
    save_sam(sources / "sam")
    policy = HFPolicy(model=str(sources / "policy"), max_pixels=84 * 84, min_pixels=28 * 28)
    return CoprsModel(
        policy=policy,
        backbone=SamBackbone(pretrained=str(sources / "sam"), image_size=IMAGE_SIZE, frozen=True),
        aggregator=LastTokenAggregator(hidden_size=policy.hidden_size),
        heatmap_head=CrossAttentionHead(query_dim=policy.hidden_size, in_channels=16, dim=16),
        decoder=SamMaskDecoder(in_channels=16, pretrained=str(sources / "sam")),
    )


def test_pretrained_parts_come_back_without_their_sources(tmp_path: Path) -> None:
    model = trained(pretrained_model(tmp_path / "sources"))
    exported = write(model, tmp_path / "exported")
    shutil.rmtree(tmp_path / "sources")
    expected = masks(model)
    again = CoprsModel.from_pretrained(exported)
    assert torch.equal(masks(again), expected)
    assert again.policy.concentration_id == model.policy.concentration_id
    assert str(tmp_path) not in (exported / "config.yaml").read_text()


def test_it_moves_with_its_folder(folder: Path, copy: Path) -> None:
    expected = masks(CoprsModel.from_pretrained(folder))
    assert torch.equal(masks(CoprsModel.from_pretrained(copy)), expected)
    assert torch.equal(masks(load_model(copy, "cpu")), expected)
    again = write(CoprsModel.from_pretrained(copy), copy.parent / "again")
    assert (again / "config.yaml").read_text() == (folder / "config.yaml").read_text()


def test_type_and_device_on_loading(folder: Path) -> None:
    model = CoprsModel.from_pretrained(folder, dtype=torch.bfloat16, device="cpu")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    exact = [b for name, b in model.policy.named_buffers() if "inv_freq" in name]
    assert {b.dtype for b in exact} == {torch.float32}
    assert masks(model).isfinite().all()


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = yaml.safe_load((folder / "config.yaml").read_text())
    change(content)
    (folder / "config.yaml").write_text(yaml.safe_dump(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["model"]["backbone"].update(class_path="subprocess.Popen"),
            r"names the class 'subprocess.Popen', which is not of this package.*trust_remote_code=True.*=subprocess",
        ),
        (
            lambda c: c["model"]["policy"]["init_args"].update(x={"class_path": "os.x", "init_args": {}}),
            r"names the class 'os.x'",
        ),
        (
            lambda c: c["model"]["backbone"].update(class_path="coprs_lightning.decoders.conv.ConvMaskDecoder"),
            r"backbone is to be a coprs_lightning.decoders.conv.ConvMaskDecoder, which is no ImageBackbone",
        ),
        (lambda c: c["model"].pop("decoder"), r"describes no decoder: it needs class_path and init_args"),
        (lambda c: c.update(coprs_format=2), r"coprs_format 2, this version reads 1. Upgrade"),
        (lambda c: c.pop("coprs_format"), r"was not written by `coprs export`"),
        (
            lambda c: c["model"]["backbone"]["init_args"].update(pretrained=True),
            r"backbone would load weights",
        ),
        (
            lambda c: c["model"]["policy"]["init_args"].update(random_weights=False),
            r"policy would load weights of its own from elsewhere",
        ),
    ],
)
def test_a_configuration_that_is_not_ours_is_refused(
    copy: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    edit(copy, change)
    with pytest.raises(ValueError, match=message):
        CoprsModel.from_pretrained(copy)


def test_a_trusted_class_of_another_package_is_built(copy: Path) -> None:
    edit(copy, lambda c: c["model"]["aggregator"].update(class_path="tests.checkpoints.foreign.ForeignAggregator"))
    with pytest.raises(ValueError, match="not of this package"):
        CoprsModel.from_pretrained(copy)
    model = CoprsModel.from_pretrained(copy, trust_remote_code=True)
    assert type(model.aggregator).__name__ == "ForeignAggregator"
    with pytest.raises(ValueError, match="outside the packages"):  # trust ends with the call
        check_allowed("tests.checkpoints.foreign.ForeignAggregator")


def test_yaml_that_runs_code_is_refused(copy: Path) -> None:
    (copy / "config.yaml").write_text("coprs_format: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ValueError, match="is no plain YAML"):
        CoprsModel.from_pretrained(copy)
    (copy / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r"has no config.yaml, so nobody knows what to build"):
        CoprsModel.from_pretrained(copy)


def test_weights_that_do_not_fit_are_refused(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["decoder.extra"] = weights.pop("decoder.head.bias")
    save_file(weights, copy / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing: decoder.head.bias\n  unexpected: decoder.extra"):
        CoprsModel.from_pretrained(copy)
    (copy / "model.safetensors").unlink()
    torch.save(weights, copy / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"only pytorch_model.bin: reading such files can run code"):
        CoprsModel.from_pretrained(copy)


def test_runs_and_wrong_names_are_told(trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_exported(trained_run)
    with pytest.raises(ValueError, match=r"is no folder of `coprs export`. Export the run or checkpoint first"):
        CoprsModel.from_pretrained(trained_run)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CommandError, match=r"there is no folder or file nobody/nothing, and the Hugging Face hub"):
        CoprsModel.from_pretrained("nobody/nothing")
    with pytest.raises(CommandError, match="there is no checkpoint"):
        load_model(tmp_path / "nothing", "cpu")
