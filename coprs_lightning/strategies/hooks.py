"""What a LightningModule does around a policy whose weights are divided; without a device mesh all of it is idle."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.enums import GradClipAlgorithmType
from torch import Tensor, nn

from coprs_lightning.sharding.gather import gather, is_sharded, release

if TYPE_CHECKING:
    from coprs_lightning.model import CoprsModel
    from coprs_lightning.objectives import Objective
    from coprs_lightning.policies import Policy


class Shardable(pl.LightningModule):
    """Divides the policy, keeps whole copies of all other parts alike, and gathers the policy to evaluate.

    Attributes:
        model: the parts.
        objective: the training loss.
    """

    model: CoprsModel
    objective: Objective
    _more_backward: bool = False

    def configure_model(self) -> None:
        """Divide the policy's weights where the strategy has a device mesh; once, however often it is called.

        Pretrained weights and those of ``init_from`` are in place by now, and checkpoints are loaded later.

        Raises:
            ValueError: for processes that begin with different weights, or a policy that cannot be divided.
        """
        mesh = self.device_mesh
        if mesh is None:
            return
        from coprs_lightning.rl.references.fingerprint import fingerprint
        from coprs_lightning.sharding.policy import shard_policy
        from coprs_lightning.sharding.replicated import check_same_start

        if mesh["tensor_parallel"].size() > 1:
            raise ValueError(
                f"trainer.strategy divides every layer among {mesh['tensor_parallel'].size()} processes "
                "(tensor_parallel_size), which the policies' layers are not written for. Use trainer/fsdp.yaml."
            )
        policy, group = self.model.policy, mesh["data_parallel"]
        plugin = self.trainer.precision_plugin
        if not is_sharded(policy):
            check_same_start(fingerprint(self.named_parameters()))
        shard_policy(policy, group, precision=str(plugin.precision))

        def divide(other: Policy) -> None:
            plugin.convert_module(other)
            shard_policy(other, group, precision=str(plugin.precision), trained=False)
            for part in other.children():  # what of a policy is not divided
                if not is_sharded(part):
                    part.to(self.trainer.strategy.root_device)

        self.objective.shard(divide)

    # -- training ----------------------------------------------------------------------------------------------------

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Backward pass; FSDP averages the policy's gradients in it, and those of the other parts are averaged here."""
        super().backward(loss, *args, **kwargs)
        if self.device_mesh is None or self._more_backward:
            return
        from coprs_lightning.sharding.replicated import average_gradients

        divided = {id(parameter) for parameter in self._language_model().parameters()}
        average_gradients(parameter for parameter in self.parameters() if id(parameter) not in divided)

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm of all gradients together, divided ones and whole ones."""
        if self.device_mesh is None or not gradient_clip_val:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        from coprs_lightning.sharding.replicated import clip_by_norm, clip_by_value

        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        by_value = gradient_clip_algorithm == GradClipAlgorithmType.VALUE
        clip: Callable[[list[nn.Parameter], float], Any] = clip_by_value if by_value else clip_by_norm
        clip(parameters, gradient_clip_val)

    def agree_on_buffers(self) -> None:
        """Take the first process' statistics of normalisation in parts that are trained, as DDP does before a pass."""
        if self.device_mesh is None:
            return
        from coprs_lightning.sharding.replicated import agree_on_buffers

        parts = self.model.components()
        agree_on_buffers(part for slot, part in parts.items() if slot != "policy" and not part.frozen)

    # -- evaluation --------------------------------------------------------------------------------------------------

    def gather_policy(self) -> None:
        """Bring the policy's weights into every process: from here on none waits for another in a pass.

        Processes may have different numbers of batches to evaluate, and their completions different lengths.
        """
        if self.device_mesh is not None:
            self.agree_on_buffers()
            gather(self._language_model())

    def release_policy(self) -> None:
        """Give back what :meth:`gather_policy` brought."""
        if self.device_mesh is not None:
            release(self._language_model())

    def on_validation_epoch_end(self) -> None:
        """Before anyone saves a checkpoint."""
        self.release_policy()

    def on_test_epoch_end(self) -> None:
        """See :meth:`release_policy`."""
        self.release_policy()

    def on_predict_epoch_end(self) -> None:
        """See :meth:`release_policy`."""
        self.release_policy()

    def _language_model(self) -> nn.Module:
        found: nn.Module = self.model.policy.lm  # type: ignore[assignment]
        return found
