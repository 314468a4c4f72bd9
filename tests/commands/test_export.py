"""`coprs export`: one folder that others can load; the layout of the paper's code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from coprs_lightning.checkpoints import load_model
from coprs_lightning.checkpoints.folder import write_folder
from coprs_lightning.cli import main
from coprs_lightning.decoders import SamMaskDecoder
from coprs_lightning.model import CoprsModel
from tests.parts import CHANNELS, photos, small_model
from tests.tiny import refused


def export(checkpoint: Path, output: Path, *flags: str) -> Path:
    main(["export", "--checkpoint", str(checkpoint), "--output", str(output), *flags])
    return output


@pytest.fixture(scope="module")
def exported(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(trained_run, tmp_path_factory.mktemp("exported") / "tiny-coprs")


def logits(model: CoprsModel) -> torch.Tensor:
    _, output = model.generate_and_segment(photos((40, 60), (33, 20)), ["the red one", "the other"], max_new_tokens=6)
    # no trained policy: a token of its own is not certain
    return torch.cat([output.mask_logits.flatten(), output.policy.hidden.flatten()])


def test_the_folder_has_all_that_the_model_is(exported: Path) -> None:
    files = {path.name for path in exported.iterdir()}
    assert {"config.yaml", "model.safetensors", "README.md", "metrics.json", "provenance.json", "policy"} == files
    assert {"tokenizer.json", "config.json"} <= {path.name for path in (exported / "policy").iterdir()}
    config = yaml.safe_load((exported / "config.yaml").read_text())
    assert list(config["model"]) == ["policy", "backbone", "aggregator", "heatmap_head", "decoder", "generation"]
    assert config["model"]["generation"]["max_new_tokens"] == 4


def test_masks_before_and_after_are_identical(trained_run: Path, exported: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")
    before = load_model(run, "cpu")
    expected, weights = logits(before), before.state_dict()
    shutil.rmtree(run)
    after = CoprsModel.from_pretrained(exported)
    assert torch.equal(logits(after), expected)
    assert after.max_new_tokens == 4
    assert not after.training
    assert all(torch.equal(value, weights[name]) for name, value in after.state_dict().items())
    assert torch.equal(logits(load_model(exported, "cpu")), expected)


def test_the_card_tells_results_provenance_and_use(exported: Path, trained_run: Path) -> None:
    card = (exported / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "coprs_lightning"
    assert "license" not in front  # the user's to state
    results = json.loads((trained_run / "results.json").read_text())
    assert f"| gIoU | {results['giou']:.4f} |" in card
    assert 'CoprsModel.from_pretrained("tiny-coprs")' in card
    assert "| heatmap_head | `CrossAttentionHead` |" in card
    provenance = json.loads((exported / "provenance.json").read_text())
    assert provenance["checkpoint"]["global_step"] == 2
    assert provenance["training"]["objective"]["class_path"].endswith("SupervisedObjective")
    assert "torch" in provenance["versions"]
    assert provenance["data"]["train"][0]["sha256"]
    for file in ("README.md", "provenance.json", "metrics.json", "config.yaml"):
        assert str(trained_run.parent) not in (exported / file).read_text(), (
            "folders of this machine are nobody's business"
        )


def test_results_of_other_weights_are_called_so(trained_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(
        json.dumps({**results, "global_step": 9, "monitor": "val/giou", "best_score": 0.25})
    )
    card = (export(run, tmp_path / "e") / "README.md").read_text()
    assert "not the figures of the exported weights, which are of step 2. The run's best val/giou was 0.2500" in card


def test_an_interrupted_run_exports_its_last_checkpoint(trained_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copyfile(trained_run / "checkpoints" / "last.ckpt", run / "checkpoints" / "last.ckpt")
    folder = export(run, tmp_path / "e", "--which", "last")
    card = (folder / "README.md").read_text()
    assert "None: the run has written no results." in card
    assert "last.ckpt, step 2" in card
    assert torch.equal(logits(CoprsModel.from_pretrained(folder)), logits(load_model(run, "cpu")))


def test_an_exported_folder_is_exported_again(exported: Path, tmp_path: Path) -> None:
    again = export(exported, tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (exported / "model.safetensors").read_bytes()
    assert (again / "metrics.json").read_bytes() == (exported / "metrics.json").read_bytes()


def test_nothing_is_lost_at_the_output(
    exported: Path, trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "--checkpoint", str(trained_run), "--output"]
    mine = shutil.copytree(exported, tmp_path / "mine")
    assert "exists. Name another folder, or add --overwrite" in refused([*words, str(mine)], capsys, status=1)
    (mine / "old").write_text("")
    main([*words, str(mine), "--overwrite"])
    assert not (mine / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("")
    message = refused([*words, str(other), "--overwrite"], capsys, status=1)
    assert "holds other files, which are not replaced. Name another folder." in message
    file = tmp_path / "file"
    file.write_text("")
    assert "is a file. Name a folder." in refused([*words, str(file)], capsys, status=1)


def test_a_failed_export_leaves_nothing(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("coprs_lightning.checkpoints.folder.save_weights", full)
    with pytest.raises(OSError, match="no space left"):
        export(trained_run, tmp_path / "e")
    assert list(tmp_path.iterdir()) == []


def test_the_hub_is_asked_before_any_work(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    words = ["export", "--checkpoint", str(trained_run), "--output", str(tmp_path / "e"), "--push-to-hub"]
    assert "is no id of a repository. Give it as owner/name." in refused([*words, "no id"], capsys, status=1)
    message = refused([*words, "me/model"], capsys, status=1)
    assert "not logged in to the Hugging Face hub, so nothing could be sent. Run `hf auth login`" in message
    assert not (tmp_path / "e").exists()


def test_a_hub_that_refuses_leaves_the_folder(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    words = ["export", "--checkpoint", str(trained_run), "--output", str(tmp_path / "e"), "--push-to-hub", "me/model"]
    message = refused(words, capsys, status=1)
    assert "--push-to-hub me/model: the hub did not take it" in message
    assert f"is complete: try again with `hf upload me/model {tmp_path / 'e'}`" in message
    assert (tmp_path / "e" / "model.safetensors").is_file()


def test_the_authors_layout_wants_their_parts(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "--checkpoint", str(trained_run), "--output", str(tmp_path / "e")]
    message = refused([*words, "--format", "authors"], capsys, status=1)
    assert "their code has a SamMaskDecoder as decoder, this model a ConvMaskDecoder. Use --format coprs." in message
    assert "--sam is for --format authors only" in refused([*words, "--sam", "x"], capsys, status=1)
    assert list(tmp_path.iterdir()) == []


def test_the_authors_layout_has_no_projection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "mlp_dim": 16, "mask_input_channels": 4}
    (tmp_path / "ours").mkdir()
    write_folder(small_model(decoder=SamMaskDecoder(in_channels=CHANNELS, **sizes)), {}, tmp_path / "ours")
    words = ["export", "--checkpoint", str(tmp_path / "ours"), "--output", str(tmp_path / "e"), "--format", "authors"]
    message = refused([*words, "--sam", "x"], capsys, status=1)
    assert "brings features of 32 channels to 16; their code has no such layer. Use --format coprs." in message
