"""The benchmarks run, tell what they promise, and compare what is the same; how fast anything is, no test says."""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from coprs_lightning.rl.rollouts import TransformersRollout
from coprs_lightning.structures import Completions
from tests.benchmarks import group_forward, inputs, measure, memory, rollout, streaming, training_step
from tests.benchmarks.shapes import SHAPES, WholeVocabularyPolicy, rope_section
from tests.benchmarks.streaming_contenders import PlainDecoding, Released, released_library
from tests.benchmarks.streaming_data import FEATURES, make_samples, write_released
from tests.benchmarks.streaming_memory import children, flatness, memory_over
from tests.parts import small_policy

TINY = ["--hidden", "32", "--layers", "2", "--heads", "2", "--kv-heads", "1", "--repetitions", "1"]
STEP = ["--steps", "1", "--prompt-tokens", "32", "--completion-tokens", "4", "--num-generations", "2"]
STEP += ["--feature-grid", "4"]
CPU = torch.device("cpu")


@pytest.fixture
def last_line(capsys: pytest.CaptureFixture[str]) -> Any:
    """Gives what a benchmark's last line says, once it ran; every number of it is one in JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    def read() -> dict[str, Any]:
        lines = capsys.readouterr().out.splitlines()
        result = json.loads(lines[-1], parse_constant=refuse)
        columns = next(line for line in lines if line.startswith("|---")).count("|")
        table = [line for line in lines if line.startswith("| ")]
        assert len(table) == 1 + len(result["rows"])
        assert {line.count("|") for line in table} == {columns}
        assert {"cpu", "cores", "threads", "device", "torch", "transformers"} <= result["machine"].keys()
        assert result["machine"]["threads"] == torch.get_num_threads()
        return result  # type: ignore[no-any-return]

    return read


class TestGroupForward:
    def test_both_sides_compute_the_same(self, last_line):
        group_forward.main([*TINY, "--shapes", "32,5,3", "36,4,2", "--prompts", "2"])
        result = last_line()
        assert [(row["prompt"], row["completion"], row["group"]) for row in result["rows"]] == [(32, 5, 3), (36, 4, 2)]
        for row in result["rows"]:
            assert row["log_prob_difference"] < 1e-4
            assert row["gradient_difference"] < 1e-4
            assert row["speedup"] == pytest.approx(row["separate_seconds"] / row["shared_seconds"])
        assert result["speedup"] == result["rows"][-1]["speedup"]
        assert result["parameters"]["hidden"] == 32

    def test_the_row_that_counts_is_the_one_of_256_64_8(self):
        assert group_forward.HEADLINE == (256, 64, 8)
        assert group_forward.HEADLINE in group_forward.GRID

    def test_the_loss_reaches_the_policy_through_log_probabilities_and_state(self):
        policy = small_policy(prompt=inputs.SHORT).train()
        prompts, completions = inputs.prompts_of(policy, 32), inputs.completions_of(policy, 5, 3)
        log_probs = group_forward.update(policy, prompts, completions, shared=True)
        gradient = group_forward.gradient(policy)
        assert log_probs.shape == (3, 5)
        assert gradient.isfinite().all()
        changed = Completions(completions.ids.flip(1), completions.mask, completions.texts, completions.truncated)
        group_forward.update(policy, prompts, changed, shared=True)
        other = group_forward.gradient(policy)
        assert (other - gradient).norm() > 0.01 * gradient.norm()


class TestRollout:
    def test_both_engines_write_the_same_greedily(self, last_line):
        rollout.main([*TINY, "--shapes", "32,6,3"])
        result = last_line()
        assert result["greedy_identical"] is True
        assert result["speedup"] == result["rows"][0]["speedup"]
        assert result["rows"][0]["sample_rate"] > 0

    def test_the_row_that_counts_is_the_one_of_256_32_8(self):
        assert rollout.HEADLINE == rollout.GRID[0] == (256, 32, 8)

    def test_padding_alone_makes_no_difference(self):
        ids = torch.tensor([[5, 6, 0], [7, 8, 9]])
        mask = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
        mine = Completions(ids, mask, [], mask[:, 0])
        wider = Completions(
            torch.tensor([[5, 6, 1, 1], [7, 8, 9, 1]]), torch.nn.functional.pad(mask, (0, 1)), [], mask[:, 0]
        )
        assert rollout.same(mine, wider)
        assert not rollout.same(mine, Completions(ids + 1, mask, [], mask[:, 0]))
        assert not rollout.same(mine, Completions(ids, mask.flip(0), [], mask[:, 0]))


class TestTrainingStep:
    def test_all_four_combinations_run(self, last_line):
        training_step.main([*STEP, "--batch-size", "2"])
        result = last_line()
        ways = [(row["forward"], row["rollout"]) for row in result["rows"]]
        assert ways == [(f, r) for f in ("shared", "separate") for r in ("one-prefill", "generate")]
        for row in result["rows"]:
            assert row["seconds"] > row["rollout_seconds"] > 0
            assert row["rollout_rate"] > 0
        assert result["speedup"] == pytest.approx(result["rows"][3]["seconds"] / result["rows"][0]["seconds"])
        assert result["parameters"]["lora"] is False

    def test_one_combination_can_run_alone_and_with_adapters(self, last_line):
        one = ["--forward", "shared", "--rollout", "one-prefill"]
        training_step.main([*STEP, *one, "--lora", "--gradient-checkpointing", "--micro-batch-size", "1"])
        result = last_line()
        assert len(result["rows"]) == 1
        assert result["speedup"] is None
        assert result["parameters"]["lora"] is True

    def test_every_completion_ends_in_the_concentration_token(self):
        policy = small_policy(prompt=inputs.SHORT)
        engine = training_step.TimedRollout(TransformersRollout(max_new_tokens=6))
        written = engine.sample(policy, inputs.prompts_of(policy, 32), 4)
        last = written.mask.sum(1) - 1
        assert written.ids[torch.arange(4), last].tolist() == [policy.concentration_id] * 4
        assert engine.tokens == int(written.mask.sum())
        assert engine.seconds > 0


class TestShapes:
    @pytest.mark.parametrize(
        ("name", "parameters", "layers"), [("qwen2_5_vl_3b", 3_754_622_976, 36), ("qwen2_5_vl_7b", 8_292_166_656, 28)]
    )
    def test_they_are_those_of_the_published_models(self, name, parameters, layers):
        with torch.device("meta"):
            policy = WholeVocabularyPolicy(
                model="small_qwen2_5_vl",
                random_weights=True,
                config_overrides=SHAPES[name].overrides,
                dtype=inputs.dtype_of(SHAPES[name].precision),
            )
        assert sum(p.numel() for p in policy.parameters()) == parameters
        assert len(policy.lm.get_decoder().layers) == layers
        assert policy.concentration_id < policy.lm.get_input_embeddings().num_embeddings

    def test_positions_are_divided_as_the_published_model_divides_them(self):
        assert rope_section(128) == [16, 24, 24]
        assert sum(rope_section(64)) == 32

    @pytest.mark.parametrize(("encode", "parameters"), [(False, 0), (True, 637_026_048)])
    def test_the_image_encoder_is_there_only_where_asked(self, encode: bool, parameters: int):
        words = ["--shape", "qwen2_5_vl_3b", "--device", "meta", *(["--encode"] if encode else [])]
        model, _ = training_step.build_model(training_step.arguments(words))
        assert sum(p.numel() for p in model.backbone.parameters()) == parameters
        assert not any(p.requires_grad for p in model.backbone.parameters())

    def test_all_parts_are_built_on_their_device(self):
        model, policy = training_step.build_model(
            training_step.arguments(["--shape", "qwen2_5_vl_3b", "--device", "meta"])
        )
        assert {p.device.type for p in model.parameters()} == {"meta"}
        assert {p.dtype for p in policy.parameters() if p.requires_grad} == {torch.float32}  # the adapters
        assert {p.dtype for p in policy.lm.get_input_embeddings().parameters()} == {torch.bfloat16}
        assert model.heatmap_head.upscale == 4

    def test_words_that_the_tokenizer_lacks_are_written_too(self):
        torch.manual_seed(7)
        policy = WholeVocabularyPolicy(
            model="small_qwen2_5_vl",
            random_weights=True,
            config_overrides={"text_config": {"vocab_size": 20_000}},
            min_pixels=28 * 28,
            max_pixels=84 * 84,
        )
        ids = policy.sample(inputs.prompts_of(policy, 200), num_generations=2, max_new_tokens=8).ids
        assert (ids >= len(policy.tokenizer)).any()
        assert policy._image_id in policy._forbidden_ids

    def test_an_option_overrides_what_the_shape_brings(self):
        given = training_step.arguments(["--shape", "qwen2_5_vl_7b", "--no-lora", "--num-generations", "4"])
        assert (given.lora, given.num_generations, given.precision) == (False, 4, "bf16")
        assert given.gradient_checkpointing is True


class TestInputs:
    def test_prompts_and_completions_have_the_asked_lengths(self):
        policy = small_policy(prompt=inputs.SHORT)
        for tokens in (32, 77):
            prompts = inputs.prompts_of(policy, tokens, count=2)
            assert prompts.input_ids.shape == (2, tokens)
            assert prompts.attention_mask.all()
            assert (prompts.input_ids == policy._image_id).any(1).all()
            assert not torch.equal(*prompts.input_ids)
        completions = inputs.completions_of(policy, 7, 4)
        assert completions.ids.shape == (4, 7)
        assert (completions.ids == policy.concentration_id).sum(1).tolist() == [1] * 4
        assert not set(completions.ids.unique().tolist()) & set(policy._forbidden_ids)

    def test_a_prompt_without_room_for_its_image_is_refused(self):
        with pytest.raises(ValueError, match=r"a prompt of 5 tokens has no room .* which take \d+"):
            inputs.prompts_of(small_policy(), 5)

    def test_shapes_and_numbers_are_read_from_the_command_line(self):
        assert inputs.shape("256,64,8") == (256, 64, 8)
        with pytest.raises(argparse.ArgumentTypeError, match="'256,64' is not P,R,G"):
            inputs.shape("256,64")
        assert inputs.positive("3") == 3
        with pytest.raises(argparse.ArgumentTypeError, match="'0' is not a number of at least 1"):
            inputs.positive("0")


class TestMemory:
    def test_every_saving_is_left_out_alone(self):
        every = training_step.arguments(memory.options_without(None))
        assert (every.forward, every.gradient_checkpointing, every.lora) == (["shared"], True, True)
        assert (every.offload_reference, every.micro_batch_size, every.encode) == (True, 2, False)
        expected = {
            "shared prefix": {"forward"},
            "gradient checkpointing": {"gradient_checkpointing"},
            "LoRA": {"lora"},
            "offloaded copy": {"offload_reference", "lora"},
            "micro-batches": {"micro_batch_size"},
            "features in the batch": {"encode"},
            "chunked logits": {"log_prob_chunk"},
        }
        expected["any"] = set().union(*expected.values())
        assert memory.WITHOUT.keys() == expected.keys()
        for line, names in expected.items():
            left = vars(training_step.arguments(memory.options_without(line)))
            assert {name for name, value in left.items() if value != vars(every)[name]} == names

    @pytest.mark.slow
    def test_it_measures_in_processes_of_their_own(self, last_line: Any):
        memory.main(["--shape", "tiny", "--without", "any"])
        result = last_line()
        assert [row["without"] for row in result["rows"]] == ["– (all savings)", "any"]
        assert result["rows"][0]["ratio"] == 1.0
        assert all(row["total_mib"] > 1 and row["seconds"] > 0 for row in result["rows"])
        lean, heavy = (row["estimate_mib"] for row in result["rows"])
        assert 0 < lean < heavy

    @pytest.mark.slow
    def test_a_run_that_fails_of_something_else_is_told(self):
        with pytest.raises(RuntimeError, match=r"training_step --shape tiny .* failed:(.|\n)*nowhere"):
            memory.main(["--shape", "tiny", "--device", "nowhere"])


class TestStreaming:
    SMALL: tuple[Any, ...] = (6, (60, 80), 2.5, 2, 90)

    def test_it_runs_with_and_without_workers(self, last_line: Any):
        words = ["--images", "6", "--size", "60,80", "--workers", "0", "1", "--repetitions", "1", "--shards", "2"]
        words += ["--released-images", "2", "--released-repetitions", "1", "--memory-period", "0.01"]
        streaming.main(words)
        result = last_line()
        rows = [row for row in result["rows"] if row["reference"] == "PIL decoding"]
        assert [(row["workers"], row["questions_together"]) for row in rows] == [(0, 1), (0, 4), (1, 1), (1, 4)]
        assert all(row["ratio"] == pytest.approx(row["rate"] / row["reference_rate"]) for row in result["rows"])
        assert result["of_decode_limit"] == min(row["ratio"] for row in rows if row["questions_together"] == 1)
        assert (result["data"]["images"], result["data"]["targets"], result["data"]["expressions"]) == (6, 15, 45)
        assert rows[1]["decoded"] == 6 / 15  # of one batch, every image is decoded once
        if released_library() is None:
            assert result["over_released_layout"] is None
        else:
            assert result["over_released_layout"] == min(row["ratio"] for row in result["rows"][4:])

    def test_images_are_the_same_each_time_and_photos_are_cropped(self, tmp_path: Path):
        first, again = (list(make_samples(*self.SMALL, None)) for _ in range(2))
        assert first == again
        assert sum(len(record.targets) for record, _ in first) == 15
        Image.fromarray(np.full((90, 90, 3), (250, 20, 20), np.uint8)).save(tmp_path / "red.jpg")
        _, cropped = next(iter(make_samples(*self.SMALL, tmp_path)))
        with Image.open(io.BytesIO(cropped)) as image:
            assert image.size == (80, 60)
            assert np.asarray(image)[..., 0].min() > 240

    def test_a_folder_without_photos_is_refused(self, tmp_path: Path):
        with pytest.raises(FileNotFoundError, match=r"holds no \*\.jpg"):
            next(make_samples(*self.SMALL, tmp_path))

    def test_processes_share_the_images(self):
        images = [image for _, image in make_samples(*self.SMALL, None)]
        for processes in (0, 2):
            plain = PlainDecoding(images, processes)
            assert (plain(), plain()) == (6, 6)
            plain.close()

    def test_the_released_layout_holds_what_the_samples_hold(self, tmp_path: Path):
        if released_library() is None:
            pytest.skip("neither datasets nor pyarrow is installed")
        samples = list(make_samples(*self.SMALL, None))
        theirs = Released(write_released(tmp_path / "released", samples), 0, 4)
        assert theirs() == 15
        row = theirs.rows[0]
        with Image.open(io.BytesIO(samples[0][1])) as image:
            np.testing.assert_array_equal(row["image"].numpy(), np.asarray(image))
        assert (row["mask"].shape, row["mask"].dtype) == ((256, 256), torch.float32)
        assert (row["features"].shape, row["features"].dtype) == (FEATURES, torch.float16)

    def test_memory_is_told_of_the_worker_that_grew_most(self):
        mib = measure.MIB
        even, grown = [100 * mib] * 8, [100 * mib] * 4 + [150 * mib] * 4
        assert flatness([even, grown]) == {
            "samples": 8,
            "first_quarter": 100.0,
            "last_quarter": 150.0,
            "growth": 0.5,
            "peak": 150.0,
        }
        assert flatness([even[:7]]) is None

    def test_memory_of_children_is_sampled_while_they_run(self):
        if not Path("/proc/self/smaps_rollup").exists():
            pytest.skip("this system tells no process's memory")

        def call() -> None:
            process = multiprocessing.get_context("fork").Process(target=_hold, args=(40 * measure.MIB,))
            process.start()
            process.join()

        (samples,) = memory_over(call, 0.02, apart_from=children())
        assert max(samples) - samples[0] > 30 * measure.MIB

    def test_sizes_are_read_from_the_command_line(self):
        assert streaming.size("480,640") == (480, 640)
        with pytest.raises(argparse.ArgumentTypeError, match="'480' is not H,W"):
            streaming.size("480")


def _hold(size: int) -> None:
    time.sleep(0.1)
    held = np.ones(size, np.uint8)
    time.sleep(0.2)
    del held


class TestMeasure:
    def test_calls_take_turns(self):
        order: list[str] = []
        found = measure.alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2, CPU)
        assert order == ["a", "b", "a", "b"]
        assert len(found["a"]) == len(found["b"]) == 2
        assert measure.median_seconds([(3.0, None), (1.0, None), (2.0, None)]) == 2.0

    def test_the_peak_of_a_call_is_what_it_takes_above_what_was_held(self):
        if measure.memory_method(CPU) != "VmHWM":
            pytest.skip("this system tells no process its peak")
        held, peak = measure.peak_bytes(lambda: torch.ones(64 * measure.MIB // 4).sum(), CPU)
        assert 60 * measure.MIB < peak < 96 * measure.MIB
        assert held > 64 * measure.MIB
        assert measure.peak_bytes(lambda: torch.ones(8).sum(), CPU)[1] < 16 * measure.MIB

    def test_elsewhere_what_the_backward_pass_needs_is_counted_once_and_without_weights(self):
        weight = torch.nn.Parameter(torch.ones(1000, 100))
        given = torch.ones(10, 1000)
        assert measure.saved_bytes(lambda: given @ weight) == given.nbytes

        def twice() -> None:
            hidden = given @ weight
            (hidden.sin() + hidden.cos()).sum()

        assert measure.saved_bytes(twice) == given.nbytes + 10 * 100 * 4
