"""What every process has a whole copy of beside a sharded policy: the segmentation parts.

Their gradients are averaged here rather than by sharding them as one more group. They are small; some are used by other
methods than ``forward``, which would find their weights in pieces; and the arithmetic is that of DDP.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

_BUCKET = 1 << 25
"""Numbers that are averaged at a time."""


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients of whole parameters over all processes, in place; those of divided ones are left alone.

    A process without a gradient counts as zero; where no process has one, there is none afterwards. Averaging again
    what is the same everywhere changes nothing, so gradients may be accumulated over several calls.
    """
    world = dist.get_world_size()
    if world == 1:
        return
    whole = [p for p in parameters if p.requires_grad and not isinstance(p, DTensor)]
    if not whole:
        return
    present = torch.tensor([p.grad is not None for p in whole], dtype=torch.int32, device=whole[0].device)
    dist.all_reduce(present)
    used = [p for p, count in zip(whole, present.tolist(), strict=True) if count]
    for bucket in _buckets(used):
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in bucket])
        dist.all_reduce(flat)
        flat /= world
        for parameter, values in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
            averaged = values.view_as(parameter)
            if parameter.grad is None:
                parameter.grad = averaged.clone()
            else:
                parameter.grad.copy_(averaged)


def _buckets(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters of one type together, up to a size."""
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        total = sum(p.numel() for p in bucket) + parameter.numel()
        if bucket and (parameter.dtype != bucket[0].dtype or total > _BUCKET):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket


@torch.no_grad()
def agree_on_buffers(parts: Iterable[nn.Module]) -> None:
    """Take the first process' buffers (statistics of normalisation) everywhere, as DDP does before every pass."""
    if dist.get_world_size() == 1:
        return
    for part in parts:
        for buffer in part.buffers():
            dist.broadcast(buffer, 0)


@torch.no_grad()
def clip_by_norm(parameters: Iterable[nn.Parameter], largest: float) -> Tensor:
    """Scale all gradients together so that their norm is at most ``largest``, as ``clip_grad_norm_`` does.

    Torch's own cannot take divided and whole gradients together.

    Returns:
        the norm before.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    divided = [g.to_local() for g in gradients if isinstance(g, DTensor)]
    whole = [g for g in gradients if not isinstance(g, DTensor)]
    device = (divided or whole)[0].device
    pieces = _squares(divided, device)
    dist.all_reduce(pieces)
    norm = (pieces + _squares(whole, device)).sqrt()
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)
    for gradient in [*divided, *whole]:
        gradient.mul_(factor.to(gradient.dtype))
    return norm


@torch.no_grad()
def clip_by_value(parameters: Iterable[nn.Parameter], largest: float) -> None:
    """Limit every entry of the gradients to ± ``largest``."""
    for parameter in parameters:
        if parameter.grad is not None:
            gradient = parameter.grad
            (gradient.to_local() if isinstance(gradient, DTensor) else gradient).clamp_(-largest, largest)


def _squares(gradients: list[Tensor], device: torch.device) -> Tensor:
    held = [g for g in gradients if g.numel()]
    if not held:
        return torch.zeros((), device=device)
    return torch.nn.utils.get_total_norm(held).float().square()


def check_same_start(digest: str) -> None:
    """Refuse to divide weights that differ from process to process: each would keep a piece of another model.

    Args:
        digest: of this process' weights, see :func:`~coprs_lightning.rl.references.fingerprint.fingerprint`.

    Raises:
        ValueError: where they differ.
    """
    found: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(found, digest)
    if len(set(found)) > 1:
        raise ValueError(
            f"the processes begin with different weights ({', '.join(name[:8] for name in found[:4])} …), so pieces of "
            "different models would be put together. Set seed_everything to a number, or start all from the same "
            "model.init_from."
        )
