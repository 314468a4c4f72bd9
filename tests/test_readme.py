"""Every command and snippet of the README, and of docs/evaluation.md, is run in order in one folder – made small."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coprs_lightning.cli import main
from tests.checkpoints.authors_source import save_authors
from tests.conftest import REPO
from tests.sam_checkpoint import save_sam
from tests.sam_original import save_original

README = (REPO / "README.md").read_text(encoding="utf-8")
EVALUATION = (REPO / "docs" / "evaluation.md").read_text(encoding="utf-8")
SMALL_FIT = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--data.init_args.batch_size", "4"]
SMALLER = {
    "data synthetic": ["--train", "12", "--val", "2", "--test", "2", "--generalisation", "2", "--shards", "2"],
    "fit": SMALL_FIT,
    "convert authors": ["--image-size", "64"],
    "demo": ["--port", "0"],
    "ablate": [*SMALL_FIT, "--seeds", "1"],
}
SMALL_POLICY = {
    "model.policy.init_args.model": "small_qwen2_5_vl",
    "model.policy.init_args.random_weights": "true",
    "model.policy.init_args.min_pixels": "null",
    "model.policy.init_args.max_pixels": "null",
}
# the paper's parts on two processor cores: a small policy, a small SAM in its original format
SMALL_PAPER = SMALL_POLICY | {
    "model.backbone.init_args.pretrained": "sam_vit_h_4b8939.pth",
    "model.backbone.init_args.image_size": "64",
    "model.decoder.init_args.pretrained": "sam_vit_h_4b8939.pth",
}
SMALL_PAPER_FIT = SMALL_PAPER | {
    "model.objective.init_args.num_generations": "2",
    "model.objective.init_args.rollout.init_args.max_new_tokens": "4",
    "model.generation.max_new_tokens": "4",
    "data.init_args.train": "data/synthetic/train",
    "data.init_args.val": "data/synthetic/val",
    "data.init_args.test": "data/synthetic/test",
    "data.init_args.num_workers": "0",
    "data.init_args.eval_batch_size": "2",
    "trainer.accelerator": "cpu",
    "trainer.devices": "1",
    "trainer.strategy": "auto",
    "trainer.precision": "32-true",
    "trainer.max_steps": "1",
    "trainer.val_check_interval": "1",
    "trainer.limit_val_batches": "1",
}


def smaller(words: list[str]) -> list[str]:
    """Further options that let a command of the README end soon, without weights from elsewhere."""
    if any(word.endswith(".help") for word in words):
        return []
    if "coprs.yaml" in words:
        options = SMALL_PAPER_FIT if words[0] == "fit" else SMALL_PAPER
        return [word for name, value in options.items() for word in (f"--{name}", value)]
    return SMALLER.get(" ".join(words[:2]), SMALLER.get(words[0], []))


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def snippet_with(word: str) -> str:
    (snippet,) = (block for block in blocks("python") if word in block)
    return snippet


def commands() -> list[list[str]]:
    lines = [line for block in blocks("bash") for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("coprs ")]


def test_make_targets_exist():
    named = re.findall(r"^make (\w[\w-]*)", "\n".join(blocks("bash")), flags=re.MULTILINE)
    makefile = (REPO / "Makefile").read_text(encoding="utf-8")
    assert {"quickstart", "test"} <= set(named)
    for target in named:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_named_files_exist():
    named = re.findall(r"`((?:coprs_lightning|datamodules|callbacks|configs|docs)/[\w./-]+)`", README)
    assert named
    for path in named:
        assert (REPO / path).exists(), path


def test_slots_name_every_class_that_ships():
    import coprs_lightning.aggregators as aggregators
    import coprs_lightning.backbones as backbones
    import coprs_lightning.decoders as decoders
    import coprs_lightning.heatmap_heads as heatmap_heads
    from coprs_lightning import objectives
    from coprs_lightning.component import Component
    from coprs_lightning.rl import advantages, references, rewards, rollouts, weights
    from coprs_lightning.spec import Recorded

    swappable = (aggregators, backbones, decoders, heatmap_heads, objectives)
    for package in (*swappable, advantages, references, rewards, rollouts, weights):
        for name in package.__all__:
            part = getattr(package, name)
            if not isinstance(part, type) or not issubclass(part, Component | Recorded):
                continue  # options of a class are in its own help
            assert f"`{name}`" in README, f"{package.__name__}.{name} is not in the README's table of slots"


@pytest.mark.slow
@pytest.mark.realdata
def test_commands_run(tmp_path: Path, realdata: Path):
    (tmp_path / "ReasonSeg").mkdir()
    (tmp_path / "ReasonSeg" / "train").symlink_to(realdata / "reasonseg" / "train")
    (tmp_path / "refer_seg").symlink_to(realdata / "refer" / "with_images")
    (tmp_path / "my_overlay.yaml").write_text("model: {decoder: {class_path: UpsampleDecoder}}\n", encoding="utf-8")
    (tmp_path / "photos").mkdir()
    for name in ("photo.png", "photos/a.png"):
        Image.fromarray(np.full((60, 80, 3), 127, np.uint8)).save(tmp_path / name)
    (tmp_path / "asked.jsonl").write_text('{"image": "photo.png", "question": "What floats?"}\n', encoding="utf-8")
    save_own(tmp_path / "mine")
    save_authors(tmp_path / "their_checkpoint")
    save_original(tmp_path / "sam_vit_h_4b8939.pth")
    save_sam(tmp_path / "facebook" / "sam-vit-huge")  # a folder of that name comes before the hub
    ran = commands()
    assert len(ran) >= 9
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "2"}
    for words in ran:
        # two training steps of a random model write no sensible thought; they have to end well all the same
        command = [sys.executable, "-m", "coprs_lightning", *words, *smaller(words)]
        code, output = run_until(command, tmp_path, environment, "the demo is at" if words[0] == "demo" else None)
        assert code == 0, f"coprs {' '.join(words)}\n{output[-5000:]}"
        if words[0] == "export":
            assert "(60, 80)" in python_snippet(snippet_with("from_pretrained"), tmp_path, environment)
            (snippet,) = blocks("python", EVALUATION)
            python_snippet(snippet + "\nprint(heatmap.grad.abs().sum())", tmp_path, environment)
    for name in ("mask.png", "heatmap.png", "overlay.png", "result.json"):
        assert (tmp_path / "out" / name).is_file()


def save_own(folder: Path) -> None:
    """The photos, masks and table of the README's example."""
    folder.mkdir()
    (table,) = blocks("csv")
    (folder / "questions.csv").write_text(table, encoding="utf-8")
    names = {name for line in table.splitlines()[1:] for name in line.split(",") if name.endswith(".png")}
    assert len(names) == 5
    for name in names:
        pixels = np.zeros((40, 60), np.uint8)
        pixels[10:20, 10 + len(name) : 40] = 255
        Image.fromarray(pixels).convert("L" if "_" in name else "RGB").save(folder / name)


def run_until(command: list[str], folder: Path, environment: dict[str, str], line: str | None) -> tuple[int, str]:
    """Run a command to its end, or until it prints a line, and then interrupt it."""
    seen = []
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        limit = threading.Timer(300, process.kill)
        limit.start()
        for text in process.stdout:
            seen.append(text)
            if line is not None and line in text:
                process.send_signal(signal.SIGINT)
        limit.cancel()
        return process.wait(), "".join(seen)


def python_snippet(snippet: str, folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", snippet],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_groupings_of_ones_own_are_logged(tmp_path: Path, tiny: Path):
    (overlay,) = (block for block in blocks("yaml", EVALUATION) if "extra" in block)
    (tmp_path / "overlay.yaml").write_text(overlay.replace("difficulty.json", str(tmp_path / "difficulty.json")))
    (tmp_path / "difficulty.json").write_text('{"img00000/0": "hard"}')
    assert main(["fit", "--config", str(tiny), "--config", str(tmp_path / "overlay.yaml")]) == 0
    header = (tmp_path / "run" / "logs" / "version_0" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"val/giou_by_difficulty/hard", "val/n_by_difficulty/hard"} <= set(header)
    assert "val/boundary_iou" not in header  # the list replaces the default one


def test_a_reward_of_ones_own_trains(tmp_path: Path, tiny: Path):
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "rewards.py").write_text(snippet_with("BrevityReward"), encoding="utf-8")
    (overlay,) = (block for block in blocks("yaml") if "BrevityReward" in block)
    rollout = "{class_path: TransformersRollout, init_args: {max_new_tokens: 4}}"
    objective = f"{{class_path: GRPOObjective, init_args: {{num_generations: 2, rollout: {rollout}}}}}"
    (tmp_path / "grpo.yaml").write_text(f"model: {{objective: {objective}}}\n", encoding="utf-8")
    (tmp_path / "reward.yaml").write_text(overlay, encoding="utf-8")
    configs = [word for name in (str(tiny), "grpo.yaml", "reward.yaml") for word in ("--config", name)]
    done = subprocess.run(
        [sys.executable, "-m", "coprs_lightning", "fit", *configs],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{REPO}:{tmp_path}", "COPRS_ALLOW_IMPORTS": "my_package"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    log = (tmp_path / "run" / "logs" / "version_0" / "metrics.csv").read_text()
    assert "train/reward/brevity" in log.splitlines()[0].split(",")


def test_python_snippet_writes_a_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from datamodules.shard_index import read_index

    monkeypatch.chdir(tmp_path)
    examples = []
    for number in range(8):
        path = tmp_path / f"photo{number}.png"
        Image.fromarray(np.full((20, 30, 3), number, np.uint8)).save(path)
        mask = np.zeros((20, 30), bool)
        mask[5:10, 5:10] = True
        examples.append((path, mask, "the square"))
    exec(compile(snippet_with("ShardWriter"), "README.md", "exec"), {"my_examples": examples})
    assert read_index(tmp_path / "data" / "mine" / "train").images == 8
