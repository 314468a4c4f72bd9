"""What dividing a policy refuses, and the pieces of it that need no second process."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from coprs_lightning.objectives import GRPOObjective, SupervisedObjective
from coprs_lightning.policies.log_probs import token_log_probs
from coprs_lightning.policies.lora import LoraOptions
from coprs_lightning.rl.references import FrozenCopyReference
from coprs_lightning.sharding.gather import gather, gathered, is_sharded, release, sharded_parts, whole_pass
from coprs_lightning.sharding.policy import blocks, shard_policy
from coprs_lightning.sharding.replicated import average_gradients, check_same_start, clip_by_norm, clip_by_value
from coprs_lightning.strategies.deepspeed import ZeRO3Strategy, refuse_decoding
from coprs_lightning.strategies.fsdp2 import FSDP2Strategy
from tests.parts import small_model, small_policy
from tests.policies.families import FAMILIES
from tests.sharding.trained import module_of


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A group of this process alone, gone afterwards."""
    store = dist.FileStore(str(tmp_path_factory.mktemp("store") / "file"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
    dist.destroy_process_group()


@pytest.mark.parametrize("family", list(FAMILIES))
def test_layers_are_those_of_every_stack(family: str) -> None:
    from transformers import AutoModelForImageTextToText

    config, _ = FAMILIES[family]()
    lm = AutoModelForImageTextToText.from_config(config)
    found = blocks(lm)
    inside = {id(p) for block in found for p in block.parameters()}
    assert sum(p.numel() for block in found for p in block.parameters()) == sum(
        p.numel() for p in lm.parameters() if id(p) in inside
    )  # no layer is inside another
    assert len(set(lm.get_decoder().layers) & set(found)) == lm.config.get_text_config().num_hidden_layers
    assert len(found) > lm.config.get_text_config().num_hidden_layers  # the vision tower's too
    embedding = lm.get_input_embeddings().weight
    assert id(embedding) not in inside


class TestGathering:
    def test_all_weights_are_whole_inside_and_divided_outside(self, mesh: Any) -> None:
        policy = small_policy()
        before = {name: p.detach().clone() for name, p in policy.named_parameters()}
        with gathered(policy.lm):  # nothing happens
            assert not is_sharded(policy)
        shard_policy(policy, mesh["data_parallel"], precision="32-true")
        assert len(sharded_parts(policy.lm)) == 1 + len(blocks(policy.lm))
        shard_policy(policy, mesh["data_parallel"], precision="32-true")  # once only
        assert len(sharded_parts(policy.lm)) == 1 + len(blocks(policy.lm))
        divided = {name: type(p) for name, p in policy.named_parameters()}
        with gathered(policy.lm), gathered(policy.lm):
            assert all(torch.equal(p, before[name]) for name, p in policy.named_parameters())
            assert all(type(p) is nn.Parameter for p in policy.parameters())
            with torch.no_grad():
                for _ in range(2):
                    whole_pass(policy.lm)(input_ids=torch.tensor([[3, 4, 5]]))
            assert all(type(p) is nn.Parameter for p in policy.parameters())  # no pass gave any back
            assert order_of_passes(policy.lm) == 0
        assert {name: type(p) for name, p in policy.named_parameters()} == divided
        gather(policy.lm)
        gather(policy.lm)
        release(policy.lm)
        release(policy.lm)
        assert {name: type(p) for name, p in policy.named_parameters()} == divided
        with torch.no_grad():
            whole_pass(policy.lm)(input_ids=torch.tensor([[3, 4, 5]]))
        assert order_of_passes(policy.lm) > 1  # outside, passes are recorded for the backward pass

    def test_a_torch_that_records_otherwise_is_refused(self, mesh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup

        policy = small_policy()
        shard_policy(policy, mesh["data_parallel"], precision="32-true")
        monkeypatch.delattr(FSDPParamGroup, "_record_post_forward")
        with pytest.raises(RuntimeError, match=r"does not record passes through sharded weights as those known"):
            gather(policy.lm)

    def test_tied_matrices_stay_one(self, mesh: Any) -> None:
        policy = small_policy()
        shard_policy(policy, mesh["data_parallel"], precision="32-true")
        assert policy.lm.lm_head.weight is policy.lm.get_input_embeddings().weight
        with gathered(policy.lm):
            assert policy.lm.lm_head.weight is policy.lm.get_input_embeddings().weight

    def test_assets_name_the_models_own_class(self, mesh: Any) -> None:
        policy = small_policy()
        shard_policy(policy, mesh["data_parallel"], precision="32-true")
        assert '"Qwen2_5_VLForConditionalGeneration"' in policy.assets()["config.json"]

    @pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)])
    def test_weights_are_gathered_in_the_type_that_they_compute_in(self, mesh: Any, precision: str, dtype: Any) -> None:
        policy = small_policy()
        shard_policy(policy, mesh["data_parallel"], precision=precision)
        assert {p.dtype for p in policy.parameters()} == {torch.float32}
        with gathered(policy.lm):
            assert {p.dtype for p in policy.parameters()} == {dtype}


def order_of_passes(lm: nn.Module) -> int:
    """How many passes FSDP keeps in mind."""
    return len(sharded_parts(lm)[0]._get_fsdp_state()._comm_ctx.post_forward_order)


class TestRefused:
    def test_a_policy_without_a_model(self, mesh: Any) -> None:
        with pytest.raises(ValueError, match=r"SimpleNamespace has no transformers model.*trainer/ddp.yaml"):
            shard_policy(SimpleNamespace(), mesh["data_parallel"], precision="32-true")  # type: ignore[arg-type]

    def test_quantised_weights(self, mesh: Any) -> None:
        policy = small_policy()
        policy.quantized = True
        with pytest.raises(ValueError, match=r"quantization: weights of 4 or 8 bits cannot be divided"):
            shard_policy(policy, mesh["data_parallel"], precision="32-true")

    def test_an_offloaded_copy(self) -> None:
        reference = FrozenCopyReference(offload=True)
        reference.prepare(small_policy())
        with pytest.raises(ValueError, match=r"reference.init_args.offload: true.*Set offload: false"):
            reference.shard(lambda policy: None)

    def test_a_copy_of_what_is_divided_already(self, mesh: Any) -> None:
        policy = small_policy()
        shard_policy(policy, mesh["data_parallel"], precision="32-true")
        with pytest.raises(ValueError, match=r"divided among the processes already.*Begin a new process"):
            FrozenCopyReference().prepare(policy)

    def test_tensor_parallel_strategies(self, mesh: Any) -> None:
        module = module_of({})
        module._device_mesh = {"tensor_parallel": SimpleNamespace(size=lambda: 2)}  # type: ignore[assignment]
        with pytest.raises(ValueError, match=r"divides every layer among 2 processes \(tensor_parallel_size\)"):
            module.configure_model()

    def test_storage_options(self) -> None:
        with pytest.raises(TypeError, match="takes no storage_options"):
            FSDP2Strategy().save_checkpoint({}, "file", storage_options={"a": 1})

    def test_a_checkpoint_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
            FSDP2Strategy()._load_file(tmp_path / "gone.ckpt")


class TestReference:
    def test_a_divided_copy_computes_the_same_and_keeps_the_start(self, mesh: Any) -> None:
        policy, plain = small_policy(), small_policy()
        reference = FrozenCopyReference()
        reference.prepare(policy)
        mark = reference.fingerprint
        shard_policy(policy, mesh["data_parallel"], precision="32-true")
        reference.shard(lambda other: shard_policy(other, mesh["data_parallel"], precision="32-true", trained=False))
        reference.shard(lambda other: pytest.fail("it is divided already"))
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.mul_(1.5)
        ids = torch.tensor([[3, 4, 5]])
        expected = plain.lm.model(input_ids=ids).last_hidden_state
        with reference.use(policy) as start:
            found = whole_pass(start.lm)(input_ids=ids).last_hidden_state
            assert not found.requires_grad
            torch.testing.assert_close(found, expected.detach())
        assert order_of_passes(start.lm) == 0
        assert all(type(p) is not nn.Parameter for p in start.lm.parameters())  # given back
        reference.prepare(policy)  # a later fit in this process: from the weights as they are now
        assert reference.fingerprint != mark
        with reference.use(policy) as start, gathered(policy.lm), gathered(start.lm):
            pairs = zip(start.parameters(), policy.parameters(), strict=True)
            assert all(torch.equal(kept, current) for kept, current in pairs)

    def test_adapters_are_neutral_when_divided_too(self, mesh: Any) -> None:
        policy = small_policy(lora=LoraOptions(rank=2))
        shard_policy(policy, mesh["data_parallel"], precision="32-true")
        assert policy.adapters is not None
        assert policy.adapters.neutral()
        hidden = torch.randn(2, policy.hidden_size)
        with gathered(policy.lm):
            head = policy.lm.lm_head
            options: dict[str, Any] = {"temperature": 1.0, "chunk": 8, "entropy_gradient": False}
            suppressed = torch.zeros(head.weight.shape[0], dtype=torch.bool)
            found = token_log_probs(hidden, torch.tensor([1, 2]), head, suppressed=suppressed, **options)[0]
        assert found.isfinite().all()


class TestWholeGradients:
    def test_one_process_averages_nothing(self, mesh: Any) -> None:
        parameter = nn.Parameter(torch.ones(2))
        parameter.grad = torch.tensor([1.0, 2.0])
        average_gradients([parameter])
        assert parameter.grad.tolist() == [1.0, 2.0]
        check_same_start("one")

    def test_clipping_is_torchs(self, mesh: Any) -> None:
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(size)) for size in (3, 5, 0)]
        twins = [nn.Parameter(p.detach().clone()) for p in parameters]
        for parameter, twin in zip(parameters, twins, strict=True):
            parameter.grad = 10 * torch.randn_like(parameter)
            twin.grad = parameter.grad.clone()
        norm = clip_by_norm(parameters, 1.0)
        torch.testing.assert_close(norm, torch.nn.utils.clip_grad_norm_(twins, 1.0))
        assert all(torch.allclose(p.grad, t.grad) for p, t in zip(parameters, twins, strict=True))  # type: ignore[arg-type]
        clip_by_value(parameters, 0.1)
        assert max(float(p.grad.abs().max()) for p in parameters if p.numel()) == pytest.approx(0.1)  # type: ignore[union-attr]
        assert clip_by_norm([nn.Parameter(torch.ones(1))], 1.0) == 0


class TestDeepSpeed:
    def test_a_missing_package_names_the_extra(self) -> None:
        import importlib.util

        if importlib.util.find_spec("deepspeed") is not None:
            pytest.skip("deepspeed is installed")
        with pytest.raises(ImportError, match=r"needs the package deepspeed.*coprs_lightning\[deepspeed\]"):
            ZeRO3Strategy()

    def test_what_decodes_is_refused(self) -> None:
        def module(objective: Any, validation: str) -> Any:
            return SimpleNamespace(objective=objective, validation=validation)

        refuse_decoding(module(SupervisedObjective(), "teacher_forced"))
        with pytest.raises(ValueError, match=r"GRPOObjective\) samples .* and model.validation is generate"):
            refuse_decoding(module(GRPOObjective(), "generate"))
        with pytest.raises(ValueError, match=r"SupervisedObjective\) samples completions"):
            refuse_decoding(module(SupervisedObjective(own_completions_every=2), "teacher_forced"))


def test_without_a_mesh_nothing_is_divided() -> None:
    module = module_of({})
    module.configure_model()
    assert not is_sharded(module)
    assert not is_sharded(small_model())
