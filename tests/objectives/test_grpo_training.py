"""Joint training in a real Trainer: micro-batches, accumulation, several updates, two processes, resuming."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from coprs_lightning.cli import main
from coprs_lightning.module import OBJECTIVE_KEY, read_checkpoint
from tests.conftest import REPO
from tests.objectives.trained import fit, module_of
from tests.parts import small_batch
from tests.tiny import refused, tiny_config, write_config


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """All gradients together within 1e-4."""
    names = [name for name in expected if expected[name].abs().max() > 0]
    assert len(names) > 20
    first, second = (torch.cat([grads[name].flatten() for name in names]) for grads in (found, expected))
    assert (first - second).norm() <= 1e-4 * second.norm()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Gradients of one step on a batch of four examples."""
    return fit(tmp_path_factory.mktemp("whole"), module_of(), [small_batch(4)])[1][0]


class TestOneStep:
    @pytest.mark.parametrize("size", [2, 4])
    def test_micro_batches_change_nothing(self, whole, tmp_path, size):
        trainer, steps = fit(tmp_path, module_of(micro_batch_size=size), [small_batch(4)])
        assert (len(steps), trainer.global_step) == (1, 1)
        assert_same(steps[0], whole)

    @pytest.mark.parametrize("size", [None, 2])
    def test_accumulation_changes_nothing(self, whole, tmp_path, size):
        batch = small_batch(4)
        singles = [batch.part(row, row + 1) for row in range(4)]
        _, steps = fit(tmp_path, module_of(micro_batch_size=size), singles, accumulate_grad_batches=4)
        assert len(steps) == 1
        assert_same(steps[0], whole)

    def test_gradients_are_gone_before_the_next_rollout(self, tmp_path):
        module = module_of(micro_batch_size=4)
        left: list[int] = []
        sample = module.objective.rollout.sample

        def watched(policy, prompts, num_generations):
            left.append(sum(p.grad is not None for p in module.parameters()))
            return sample(policy, prompts, num_generations)

        module.objective.rollout.sample = watched
        _, steps = fit(tmp_path, module, [small_batch(2)] * 3)
        assert left == [0, 0, 0]
        assert len(steps) == 3

    @pytest.mark.parametrize("size", [0, pytest.param(4, marks=pytest.mark.slow)])
    def test_two_processes_are_one_on_the_same_examples(self, whole, tmp_path, size):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        done = subprocess.run(
            [*command, "-m", "tests.objectives.trained", str(tmp_path), str(size)],
            cwd=REPO,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert_same(torch.load(tmp_path / "gradients.pt"), whole)


class TestSeveralUpdates:
    def test_every_batch_gives_as_many_steps(self, tmp_path):
        module = module_of(updates_per_batch=3)
        trainer, steps = fit(tmp_path, module, [small_batch(2), small_batch(3)])
        assert len(steps) == 6
        assert trainer.global_step == 2  # a step is a rollout: the schedule and the log count those
        state = next(iter(trainer.optimizers[0].state.values()))
        assert int(state["step"]) == 6
        with pytest.raises(AssertionError):
            assert_same(steps[1], steps[0])  # the ratio is no longer 1

    def test_they_do_not_go_with_accumulated_gradients(self, tmp_path):
        module = module_of(updates_per_batch=2)
        with pytest.raises(
            ValueError, match=r"updates_per_batch is 2 and trainer.accumulate_grad_batches 4.*micro_batch_size"
        ):
            fit(tmp_path, module, [small_batch(2)] * 4, accumulate_grad_batches=4)


GRPO = {
    "class_path": "GRPOObjective",
    "init_args": {
        "num_generations": 2,
        "rollout": {"class_path": "TransformersRollout", "init_args": {"max_new_tokens": 4}},
        "reward": {
            "class_path": "WeightedSumReward",
            "init_args": {
                "rewards": {"mask": {"class_path": "MaskReward"}, "format": {"class_path": "FormatReward"}},
                "weights": {"mask": 0.5, "format": 0.5},
            },
        },
    },
}


@pytest.fixture
def grpo(tiny_data: Path, tmp_path: Path) -> Path:
    """A config of the tiny experiment under GRPO."""
    config = tiny_config(tiny_data, tmp_path / "run")
    config["model"]["objective"] = GRPO
    return write_config(tmp_path / "grpo.yaml", config)


class TestCommandLine:
    def test_it_fits_from_a_config_and_logs_every_key(self, grpo, tmp_path):
        main(["fit", "--config", str(grpo)])
        with (tmp_path / "run" / "logs" / "version_0" / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        keys = set(rows[0])
        documented = """
            train/reward/total train/reward/mask train/reward/format train/reward/std train/frac_reward_zero_std
            train/kl train/entropy train/clip_ratio train/ratio_max train/loss train/loss/policy train/loss/kl
            train/loss/entropy train/loss/segmentation train/loss/heatmap_bce train/loss/heatmap_dice train/loss/dice
            train/loss/focal train/advantage/abs_mean train/completions/mean_length train/completions/max_length
            train/completions/truncated_fraction train/completions/malformed_fraction train/completions/token_rate
            lr/policy lr/heatmap_head lr/decoder lr/backbone"""
        assert set(documented.split()) <= keys

    def test_a_checkpoint_rebuilds_the_objective_too(self, grpo, tmp_path):
        main(["fit", "--config", str(grpo)])
        spec = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["coprs_spec"]
        reward = spec["init_args"]["objective"]["init_args"]["reward"]
        assert reward["init_args"]["weights"] == {"mask": 0.5, "format": 0.5}
        main(["test", "--ckpt_path", str(tmp_path / "run")])

    def test_a_run_resumes_with_its_own_reference_only(self, grpo, tmp_path, capsys):
        main(["fit", "--config", str(grpo)])
        content = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
        assert content[OBJECTIVE_KEY]
        more = ["fit", "--config", str(grpo), "--trainer.max_steps", "4", "--ckpt_path", str(tmp_path / "run")]
        main(more)
        message = refused([*more, "--seed_everything", "5"], capsys, status=1)
        assert "reference" in message

    @pytest.mark.parametrize(
        ("where", "given", "expected"),
        [
            ([], {"wights": {}}, "WeightedSumReward has no option 'wights'"),
            (["rewards"], {"mask": {"class_path": "MaskRewards"}}, "no Reward is called 'MaskRewards'"),
            (["rewards", "mask", "init_args"], {"treshold": 0.4}, "MaskReward has no option 'treshold'"),
        ],
    )
    def test_a_mistake_inside_a_reward_is_told_in_its_place(self, grpo, capsys, where, given, expected):
        config = yaml.safe_load(grpo.read_text())
        inside = config["model"]["objective"]["init_args"]["reward"]["init_args"]
        for key in where:
            inside = inside[key] if key in inside else inside.setdefault(key, {})
        inside.update(given)
        write_config(grpo, config)
        message = refused(["fit", "--config", str(grpo)], capsys)
        assert expected in message
        assert "Did you mean" in message
