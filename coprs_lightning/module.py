"""The LightningModule: steps, log keys, optimizer and schedule. No maths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from coprs_lightning.aggregators import ConcentrationAggregator
from coprs_lightning.backbones import ImageBackbone
from coprs_lightning.checkpoints.folder import is_exported
from coprs_lightning.checkpoints.io import AnyCheckpointIO
from coprs_lightning.checkpoints.parts import in_folder, portable, written_assets
from coprs_lightning.checkpoints.run_folder import PORTABLE_KEY, SPEC_KEY
from coprs_lightning.checkpoints.sharded import is_sharded_checkpoint, read_sharded
from coprs_lightning.checkpoints.tensors import read_weights
from coprs_lightning.checkpoints.weights import untied
from coprs_lightning.decoders import MaskDecoder
from coprs_lightning.features.checking import MakersWeights, check_features
from coprs_lightning.heatmap_heads import HeatmapHead
from coprs_lightning.model import CoprsModel
from coprs_lightning.objectives import Objective, ObjectiveOutput, TrainingStep
from coprs_lightning.policies import Policy
from coprs_lightning.schedule import one_cycle_factor
from coprs_lightning.spec import Recorded, build
from coprs_lightning.strategies.hooks import Shardable
from coprs_lightning.structures import SegmentationBatch, SegmentationOutput
from coprs_lightning.weightless import only_shapes

DATA_SPEC_KEY = "coprs_data_spec"
OBJECTIVE_KEY = "coprs_objective"

_BACKBONE = "model.backbone."
_GROUP_OPTIONS = ("initial_lr", "betas", "weight_decay")


@dataclass(frozen=True)
class OptimizerOptions:
    """AdamW with a one-cycle schedule, as in the released CoPRS code.

    Attributes:
        learning_rate: base rate; each part multiplies it by its ``lr_multiplier``.
        weight_decay: decoupled weight decay.
        betas: Adam's momentum terms.
        warmup_fraction: share of all steps in which the rate rises from ``learning_rate / start_divisor``.
        start_divisor: how far below the base rate the warm-up begins.
        final_divisor: how far below the base rate the cosine ends (the paper's code: 6.67).
    """

    learning_rate: float = 2e-6
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_fraction: float = 0.0
    start_divisor: float = 1.0
    final_divisor: float = 6.67


@dataclass(frozen=True)
class GenerationOptions:
    """How completions are decoded in validation, test and prediction.

    Attributes:
        max_new_tokens: longest completion (the paper: 2 000).
        temperature: 0 is greedy, the paper's protocol.
    """

    max_new_tokens: int = 512
    temperature: float = 0.0


class CoprsModule(Recorded, Shardable):
    """Trains and evaluates a :class:`~coprs_lightning.model.CoprsModel`.

    Args:
        policy: the multimodal LLM that writes the chain of thought.
        backbone: image features.
        aggregator: makes the query from the concentration token.
        heatmap_head: query and features → heatmap (the positional prior).
        decoder: features and heatmap → mask.
        objective: the training loss.
        optimizer: learning rate and schedule.
        generation: decoding in validation, test and prediction.
        validation: ``generate`` decodes the thought and segments from it; ``teacher_forced`` is cheaper and reads the
            written thought (its numbers are no benchmark numbers).
        init_from: checkpoint, or folder of `coprs export`, whose weights training starts from, strictly; optimizer and
            step counts start anew.
    """

    def __init__(
        self,
        policy: Policy,
        backbone: ImageBackbone,
        aggregator: ConcentrationAggregator,
        heatmap_head: HeatmapHead,
        decoder: MaskDecoder,
        objective: Objective,
        optimizer: OptimizerOptions = OptimizerOptions(),
        generation: GenerationOptions = GenerationOptions(),
        validation: Literal["generate", "teacher_forced"] = "generate",
        init_from: str | None = None,
    ) -> None:
        super().__init__()
        self.model = CoprsModel(
            policy=policy, backbone=backbone, aggregator=aggregator, heatmap_head=heatmap_head, decoder=decoder
        )
        self.objective = objective
        self.optimizer_options = optimizer
        self.generation = generation
        self.model.max_new_tokens = generation.max_new_tokens
        self.validation = validation
        self.init_from = init_from
        self._update = 0
        self._makers_weights: MakersWeights | None = None
        if init_from is not None and not only_shapes():
            self._load_weights(init_from)

    @property
    def image_size(self) -> int:
        """Side S of the frames that the backbone wants."""
        return self.model.image_size

    @property
    def spec(self) -> dict[str, Any]:
        """See :class:`Recorded`; ``init_from`` is left out, since a checkpoint holds the weights themselves."""
        spec = super().spec
        spec["init_args"]["init_from"] = None
        return spec

    # -- steps -------------------------------------------------------------------------------------------------------

    def training_step(self, batch: SegmentationBatch, batch_idx: int) -> dict[str, Any]:
        """One training loss; for callbacks what is logged of it and the rollout behind it."""
        self.agree_on_buffers()
        step = TrainingStep(self.global_step, self._update, self._accumulate)
        output: ObjectiveOutput = self.objective(self.model, batch, step)
        self.log_dict({f"train/{key}": value for key, value in output.logs.items()}, batch_size=len(batch))
        for slot, component in {**self.model.components(), "objective": self.objective}.items():
            for name, value in component.pop_diagnostics().items():
                self.log(f"train/{slot}/{name}", value.float(), batch_size=len(batch))
        return {"loss": output.loss, "logs": output.logs, "rollout": output.rollout}

    def _accumulate(self, loss: Tensor) -> None:
        self._more_backward = True  # the last backward pass of the step is Lightning's own
        self.trainer.strategy.backward(loss / self.trainer.accumulate_grad_batches, None)
        self._more_backward = False

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """As many steps on the batch as the objective asks for; gradients are freed after each.

        Freed here and not before the backward pass, as Lightning does by default: they are not in memory during the
        rollout, and an objective may run backward passes of its own in ``training_step``.
        """
        for update in range(self.objective.updates_per_batch):
            self._update = update
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
            optimizer.zero_grad()
        self._update = 0

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Nothing: see :meth:`optimizer_step`."""

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the learning rate of every part."""
        self.log_dict({f"lr/{group['name']}": float(group["lr"]) for group in optimizer.param_groups})

    def validation_step(  # type: ignore[override]  # Lightning's hint knows tensors and mappings; any object may pass
        self, batch: SegmentationBatch, batch_idx: int
    ) -> SegmentationOutput:
        """Segment the batch; callbacks measure and draw."""
        return self._evaluate(batch, self.validation)

    def test_step(  # type: ignore[override]
        self, batch: SegmentationBatch, batch_idx: int
    ) -> SegmentationOutput:
        """Segment the batch from generated thoughts."""
        return self._evaluate(batch, "generate")

    def predict_step(self, batch: SegmentationBatch, batch_idx: int) -> SegmentationOutput:
        """Segment the batch from generated thoughts."""
        return self._evaluate(batch, "generate")

    def _evaluate(self, batch: SegmentationBatch, mode: str) -> SegmentationOutput:
        prompts = self.model.policy.encode_prompts(batch.images, batch.questions)
        if mode == "generate":
            completions = self.model.policy.generate(
                prompts, max_new_tokens=self.generation.max_new_tokens, temperature=self.generation.temperature
            )
        else:
            completions = self.objective.written_completions(self.model, batch)
        output: SegmentationOutput = self.model(batch, prompts, completions)
        return output

    # -- optimisation ------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]  # a TypedDict of Lightning's own
        """AdamW over one group a part, one-cycle schedule over the whole run."""
        options = self.optimizer_options
        groups = [
            group
            for name, component in {**self.model.components(), "objective": self.objective}.items()
            for group in component.parameter_groups(options.learning_rate, name)
        ]
        if not groups:
            raise ValueError("every part is frozen: nothing to train. Set frozen: false on at least one slot.")
        optimizer = torch.optim.AdamW(groups, betas=options.betas, weight_decay=options.weight_decay)
        total = self.trainer.estimated_stepping_batches
        if total == float("inf"):
            raise ValueError("the one-cycle schedule needs an end: set trainer.max_steps or trainer.max_epochs.")
        factor = partial(
            one_cycle_factor,
            total_steps=int(total),
            warmup_fraction=options.warmup_fraction,
            start_divisor=options.start_divisor,
            final_divisor=options.final_divisor,
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda step: factor(step)] * len(groups))
        self._configured = [{key: group[key] for key in _GROUP_OPTIONS} for group in optimizer.param_groups]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def setup(self, stage: str) -> None:
        """Before training, and before a checkpoint is resumed: let the objective see the initial weights.

        Raises:
            ValueError: for features in the data that are not this backbone's (see
                :func:`coprs_lightning.features.checking.check_features`), or for accumulation of gradients with several
                updates a batch.
        """
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            self.trainer.strategy.checkpoint_io = AnyCheckpointIO()
        splits = getattr(getattr(self.trainer, "datamodule", None), "split_features", {})
        self._makers_weights = check_features(self.model.backbone, splits, training=stage == "fit")
        if stage != "fit":
            return
        updates, accumulated = self.objective.updates_per_batch, self.trainer.accumulate_grad_batches
        if updates > 1 and accumulated > 1:
            raise ValueError(
                f"objective.updates_per_batch is {updates} and trainer.accumulate_grad_batches {accumulated}: all "
                "updates but the first would see the last batch only. Set accumulate_grad_batches: 1, with a larger "
                "data.batch_size and objective.micro_batch_size against its memory."
            )
        self.objective.prepare(self.model)

    def on_train_start(self) -> None:
        """After resuming: rates and schedule are the configured ones; of the checkpoint's only the step counts remain.

        Torch restores options together with the optimizer's moments, so a checkpoint would win over a changed option.
        """
        self._check_makers_weights()
        scheduler = self.lr_schedulers()
        if not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR) or scheduler.last_epoch == 0:
            return
        for group, options in zip(scheduler.optimizer.param_groups, self._configured, strict=True):
            group.update(options)
        scheduler.base_lrs = [options["initial_lr"] for options in self._configured]
        scheduler.last_epoch -= 1
        scheduler.step()  # the rate of this step, by the configured schedule

    def on_validation_start(self) -> None:
        """Check whose features these are, for a checkpoint is loaded by now; gather weights, agree on buffers.

        DDP would agree in the first batch's forward pass. A rank that has no validation batch makes none, and the
        others would wait there for ever.
        """
        self._check_makers_weights()
        self.gather_policy()
        wrapped = getattr(self.trainer.strategy, "model", None)
        if isinstance(wrapped, DistributedDataParallel) and wrapped.will_sync_module_buffers():
            wrapped._sync_buffers()
            wrapped.require_forward_param_sync = False  # the next training pass sets it again

    def on_test_start(self) -> None:
        """As :meth:`on_validation_start`."""
        self._check_makers_weights()
        self.gather_policy()

    def on_predict_start(self) -> None:
        """As :meth:`on_validation_start`."""
        self._check_makers_weights()
        self.gather_policy()

    def _check_makers_weights(self) -> None:
        if self._makers_weights is not None:
            self._makers_weights.check()

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the plain-data specs that rebuild the model, and the datamodule it saw, without a config.

        Pretrained parts are rebuilt without what they were loaded from: tokenizer and sizes are in the checkpoint.
        """
        checkpoint[SPEC_KEY] = self.spec
        checkpoint[PORTABLE_KEY] = portable(self.model, asdict(self.generation))
        checkpoint[OBJECTIVE_KEY] = self.objective.checkpoint_state()
        datamodule = getattr(self.trainer, "datamodule", None)
        if isinstance(datamodule, Recorded):
            checkpoint[DATA_SPEC_KEY] = datamodule.spec

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the objective check that the checkpoint goes with this run; features must fit its backbone's weights."""
        if self._makers_weights is not None:
            self._makers_weights.replaced_by(_backbone_of(checkpoint.get("state_dict")))
            self._makers_weights.check()
        if self.trainer.state.fn == "fit":
            self.objective.check_checkpoint_state(checkpoint.get(OBJECTIVE_KEY, {}))

    def _load_weights(self, path: str) -> None:
        if Path(path).is_dir() and is_exported(Path(path)):
            self.model.load_state_dict(untied(self.model, read_weights(Path(path))))
            return
        if not Path(path).is_file() and not is_sharded_checkpoint(path):
            raise FileNotFoundError(
                f"model.init_from: there is no checkpoint {path}, so training has nothing to start from. Run what "
                "makes it first (runs/quickstart: `make quickstart`), name another .ckpt file or a folder of `coprs "
                "export`, or set model.init_from: null to start without."
            )
        self.load_state_dict(read_checkpoint(path)["state_dict"])

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> CoprsModule:
        """Rebuild a trained module from its checkpoint alone: no config, no pickle, strict weights."""
        checkpoint = read_checkpoint(path)
        spec, saved = checkpoint[SPEC_KEY], checkpoint.get(PORTABLE_KEY)
        if saved is None:  # written before checkpoints held the assets: pretrained parts need their sources
            module = build(spec)
        else:
            with written_assets(saved["assets"]) as folder:
                parts = {slot: in_folder(part, slot, folder) for slot, part in saved["parts"].items()}
                module = build({**spec, "init_args": {**spec["init_args"], **parts}})
        if not isinstance(module, cls):
            raise ValueError(f"{path} holds a {type(module).__name__}, not a {cls.__name__}.")
        for slot, part in module.model.components().items():
            part.recall(spec["init_args"][slot]["init_args"])  # by which sources it was configured
        module.load_state_dict(checkpoint["state_dict"])
        return module.eval()


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint as plain data and tensors.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when the file is no checkpoint of this project.
    """
    if is_sharded_checkpoint(path):
        return _own(read_sharded(Path(path)), path)
    if not Path(path).is_file():
        raise FileNotFoundError(f"no checkpoint at {path}. Give a .ckpt file written by `coprs fit`.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a checkpoint (truncated, or not plain data): {error}") from error
    return _own(content, path)


def _own(content: Any, path: str | Path) -> dict[str, Any]:
    if not isinstance(content, dict) or SPEC_KEY not in content:
        raise ValueError(f"{path} is no coprs checkpoint: it has no {SPEC_KEY!r}. It was written by another program.")
    return content


def _backbone_of(state: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
    """The backbone's weights in a checkpoint; ``None`` where it holds no tensors, but pieces of a sharded model."""
    if state is None:
        return None
    return {name.removeprefix(_BACKBONE): value for name, value in state.items() if name.startswith(_BACKBONE)}
