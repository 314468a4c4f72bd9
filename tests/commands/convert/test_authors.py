"""`coprs convert authors` and back: every weight gets a place or is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from coprs_lightning.checkpoints.authors_keys import LEFT_OVER, from_transformers
from coprs_lightning.cli import main
from coprs_lightning.model import CoprsModel
from tests.checkpoints.authors_source import GRID, HIDDEN, Modules, save_authors, saved
from tests.parts import small_batch
from tests.sam_checkpoint import IMAGE_SIZE, save_sam
from tests.tiny import refused

pytest.importorskip("segment_anything", reason="the tests build the source with the package segment-anything")


def convert(source: Path, output: Path, *flags: str, backbone: str = "none") -> None:
    size = ["--image-size", str(IMAGE_SIZE)]
    main(
        ["convert", "authors", "--source", str(source), "--output", str(output), "--backbone", backbone, *size, *flags]
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Modules]:
    folder = tmp_path_factory.mktemp("authors") / "source"
    return folder, save_authors(folder)


@pytest.fixture(scope="module")
def converted(source: tuple[Path, Modules], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("converted") / "ours"
    convert(source[0], output)
    return output


@pytest.mark.parametrize(("refine", "dtype"), [(True, torch.float32), (True, torch.bfloat16), (False, torch.float32)])
def test_there_and_back_gives_equal_tensors(refine: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    save_authors(tmp_path / "source", refine=refine, dtype=dtype)
    before = saved(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "ours")
    shutil.rmtree(tmp_path / "source")
    words = [
        "export",
        "--checkpoint",
        str(tmp_path / "ours"),
        "--format",
        "authors",
        "--output",
        str(tmp_path / "back"),
    ]
    main(words)
    after = saved(tmp_path / "back")
    assert sorted(after) == sorted(before)
    assert {value.dtype for value in after.values()} == {dtype}
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    for file in ("config.json", "tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / "back" / "llm_hf" / file).is_file()


@pytest.mark.parametrize("original", [True, False])
def test_what_our_decoder_leaves_out_can_come_from_sam(
    source: tuple[Path, Modules], converted: Path, original: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(converted, tmp_path / "ours")
    (folder / "leftovers.safetensors").unlink()
    words = ["export", "--checkpoint", str(folder), "--format", "authors", "--output", str(tmp_path / "back")]
    assert "leaves out 30 weights. Name the SAM checkpoint that training" in refused(words, capsys, status=1)
    sam = tmp_path / "sam.pth" if original else tmp_path / "sam"
    if original:
        expected = Modules(source[1].heatmap_head.q_proj.in_features).state_dict()
        torch.save({k: v for k, v in expected.items() if not k.startswith("heatmap_head.")}, sam)
    else:
        expected = {from_transformers(name): value for name, value in save_sam(sam).state_dict().items()}
    main([*words, "--sam", str(sam)])
    back, before = saved(tmp_path / "back"), saved(source[0])
    assert sorted(back) == sorted(before)
    for name, value in back.items():
        assert torch.equal(value, expected[name] if name in LEFT_OVER else before[name]), name
    if original:
        torch.save({"prompt_encoder.no_mask_embed.weight": torch.ones(1)}, sam)
        message = refused([*words, "--sam", str(sam), "--overwrite"], capsys, status=1)
        assert "is no whole SAM checkpoint. It lacks:" in message


def test_the_report_accounts_for_every_weight(source: tuple[Path, Modules], converted: Path) -> None:
    report = json.loads((converted / "conversion.json").read_text())
    names = set(source[1].state_dict())
    placed, left = set(report["placed"].values()), set(report["left_over"])
    assert placed | left == names
    assert not placed & left
    assert all("point" in n or "no_mask" in n or "iou" in n or "hypernetworks" in n for n in left)
    assert "decoder.mask_embed.conv1.weight" in report["placed"]
    assert report["assumed"]


def test_it_computes_what_the_source_computes(source: tuple[Path, Modules], converted: Path) -> None:
    modules, model = source[1], CoprsModel.from_pretrained(converted)
    features, heatmap = torch.randn(1, HIDDEN, GRID, GRID), torch.randn(1, 1, 4 * GRID, 4 * GRID)
    frame = torch.tensor([[IMAGE_SIZE, IMAGE_SIZE]])
    with torch.no_grad():
        sparse, dense = modules.prompt_encoder(points=None, boxes=None, masks=heatmap)
        positions = modules.prompt_encoder.get_dense_pe()
        theirs, _ = modules.mask_decoder(features, positions, sparse, dense, multimask_output=False)
        ours = model.decoder(features, heatmap, frame, IMAGE_SIZE)
        query = torch.randn(1, 1, model.policy.hidden_size)
        q, k = modules.heatmap_head.q_proj(query), modules.heatmap_head.k_proj(features)
        logits = torch.einsum("nd,ndhw->nhw", q.view(4, -1), k.view(4, -1, GRID, GRID)) / (HIDDEN // 4) ** 0.5
        prior = torch.nn.functional.interpolate(
            modules.heatmap_head.fuser(logits[None]), scale_factor=4, mode="bilinear"
        )
        torch.testing.assert_close(model.heatmap_head(query, features), prior, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_with_a_backbone_it_answers(source: tuple[Path, Modules], tmp_path: Path) -> None:
    save_sam(tmp_path / "sam")
    convert(source[0], tmp_path / "ours", backbone=str(tmp_path / "sam"))
    shutil.rmtree(tmp_path / "sam")
    model = CoprsModel.from_pretrained(tmp_path / "ours")
    assert (model.image_size, model.backbone.frozen, model.max_new_tokens) == (IMAGE_SIZE, True, 2000)
    image = torch.randint(0, 255, (3, 50, 40), dtype=torch.uint8)
    answer: Any = model.segment(image, "the red one", max_new_tokens=3)
    assert answer.mask.shape == (50, 40)


def test_without_a_backbone_features_come_with_the_batch(converted: Path) -> None:
    model, batch = CoprsModel.from_pretrained(converted), small_batch(1)
    prompts = model.policy.encode_prompts(batch.images, batch.questions)
    completions = model.policy.encode_completions(["red"])
    with pytest.raises(ValueError, match=r"no image backbone and the batch of 1 frames brings no features. Compute"):
        model(batch, prompts, completions)
    batch.features = torch.randn(1, HIDDEN, GRID, GRID).half()
    assert model(batch, prompts, completions).mask_logits.isfinite().all()


def changed(source: Path, tmp_path: Path, **changes: Any) -> Path:
    """A copy of the source with weights replaced, added, or (``None``) removed."""
    shutil.copytree(source, tmp_path / "changed")
    weights = torch.load(source / "refseg_modules.pt", weights_only=True) | {
        k.replace("__", "."): v for k, v in changes.items()
    }
    torch.save({k: v for k, v in weights.items() if v is not None}, tmp_path / "changed" / "refseg_modules.pt")
    return tmp_path / "changed"


def test_nested_and_wrapped_names_are_understood(source: tuple[Path, Modules], tmp_path: Path) -> None:
    nested = {f"module.{name}": part.state_dict() for name, part in source[1].named_children()}
    shutil.copytree(source[0], tmp_path / "nested")
    torch.save(nested, tmp_path / "nested" / "refseg_modules.pt")
    convert(tmp_path / "nested", tmp_path / "ours")
    model = CoprsModel.from_pretrained(tmp_path / "ours")
    assert torch.equal(model.heatmap_head.q_proj.weight, source[1].heatmap_head.q_proj.weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heatmap_head__gate": torch.ones(1)}, r"weights that have no place in our model:\n  heatmap_head.gate"),
        ({"iou__x": torch.ones(1)}, r"holds weights of no module that is known \(heatmap_head.*\n  iou.x"),
        (
            {"prompt_encoder__mask_downscaling__6__bias": None},
            r"lacks weights.*\n  prompt_encoder.mask_downscaling.6.bias",
        ),
        ({"mask_decoder__mask_tokens__weight": None}, r"lacks weights, .*whole:\n  mask_decoder.mask_tokens.weight"),
        ({"heatmap_head__fuser__0__weight": None}, r"lacks heatmap_head.fuser.0.weight, so the number of heads"),
        (
            {"heatmap_head__q_proj__weight": torch.ones(16, 24)},
            r"takes queries of 24, but the model in llm_hf has .* 32",
        ),
        ({"heatmap_head__k_proj__weight": torch.ones(16, 8, 1, 1)}, r"sizes do not fit"),
        (
            {"mask_decoder__iou_token__weight": torch.ones(1, 3)},
            r"of another shape: mask_decoder.iou_token.weight is \(1, 3\)",
        ),
        ({"step": 7}, r"holds step, a int: only tensors are expected"),
    ],
)
def test_what_does_not_fit_is_named(
    source: tuple[Path, Modules],
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = changed(source[0], tmp_path, **changes)
    words = ["convert", "authors", "--source", str(folder), "--output", str(tmp_path / "o"), "--backbone", "none"]
    import re

    assert re.search(message, refused(words, capsys, status=1))
    assert not (tmp_path / "o").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["changed"]


def test_sources_that_cannot_be_read(
    source: tuple[Path, Modules], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["convert", "authors", "--source", str(tmp_path), "--output", str(tmp_path / "o"), "--backbone", "none"]
    assert "lacks refseg_modules.pt and llm_hf: the released" in refused(words, capsys, status=1)
    (tmp_path / "llm_hf").mkdir()
    torch.save({"heatmap_head.x": print}, tmp_path / "refseg_modules.pt")
    assert "refseg_modules.pt cannot be read as weights (broken" in refused(words, capsys, status=1)
    torch.save([torch.ones(1)], tmp_path / "refseg_modules.pt")
    assert "holds a list, not named weights" in refused(words, capsys, status=1)


def test_a_language_model_with_a_foreign_weight_is_refused(
    source: tuple[Path, Modules], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(source[0], tmp_path / "source")
    file = tmp_path / "source" / "llm_hf" / "model.safetensors"
    save_file({**load_file(file), "model.extra": torch.ones(1)}, file, metadata={"format": "pt"})
    words = ["convert", "authors", "--source", str(tmp_path / "source"), "--output", str(tmp_path / "ours")]
    message = refused([*words, "--backbone", "none", "--image-size", str(IMAGE_SIZE)], capsys, status=1)
    assert "1 weights that the model has no place for (model.language_model.extra" in message
    assert not (tmp_path / "ours").exists()
