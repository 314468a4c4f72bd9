"""A module that logs the losses its training computes; run by torchrun, two processes that correlate."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.correlation import HeatmapMaskCorrelation
from callbacks.correlation_thoughts import ThoughtMaskCorrelation
from coprs_lightning.losses.segmentation import PAPER_WEIGHTS, segmentation_loss
from coprs_lightning.structures import SegmentationBatch
from tests.callbacks.tiny import TinySegmenter, example, loader, trainer

SHARES = (range(7), range(5, 13))
"""Of examples; two come twice, as samplers repeat some to even shares out."""

WRITTEN = "anchor: blue square. look for: red circle left of it."
THOUGHTS = (WRITTEN, "look for: red circle left of it.", "look for: green star.", "")


class Losing(TinySegmenter):
    """Logs as the objectives do.

    Args:
        silent_every: every so many steps there is no token, and nothing is logged of heatmap and mask.
        without_token: share of completions without a token, over which reinforcement averages too.
    """

    def __init__(self, silent_every: int = 0, without_token: float = 0.0) -> None:
        super().__init__()
        self.silent_every = silent_every
        self.without_token = without_token
        self.computed: list[tuple[int, float, float]] = []

    def training_step(self, batch: SegmentationBatch, batch_idx: int):
        heatmap, mask = self.logits(batch)
        _, parts = segmentation_loss(heatmap, mask, batch.masks, PAPER_WEIGHTS)
        loss = parts["heatmap_bce"].mean() + parts["dice"].mean()
        if self.silent_every and batch_idx % self.silent_every == 0:
            return {"loss": loss, "logs": {"loss": loss.detach()}, "rollout": None}
        bce, dice = parts["heatmap_bce"].mean().detach(), parts["dice"].mean().detach()
        self.computed.append((len(batch), float(bce), float(dice)))
        share = 1 - self.without_token
        logs = {"loss/heatmap_bce": bce * share, "loss/dice": dice * share}
        if self.without_token:
            logs["completions/token_rate"] = torch.tensor(share)
        return {"loss": loss, "logs": logs, "rollout": None}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam((p for p in self.parameters() if p.requires_grad), lr=0.05)


class Partly(TinySegmenter):
    """Heatmaps and masks that are right in part."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.model["head"].weight.copy_(torch.tensor([9.0, -9.0, -6.0])[None, :, None, None])
            self.model["head"].bias.fill_(-0.7)
            self.model["decoder"].bias.fill_(0.4)


class Thinking(Partly):
    """Writes one of four thoughts, by the example's number."""

    def validation_step(self, batch: SegmentationBatch, batch_idx: int):
        output = super().validation_step(batch, batch_idx)
        texts = [f"<think> {THOUGHTS[int(key[-1]) % 4]} </think> <REF_POS>" for key in batch.keys]
        return replace(output, completions=replace(output.completions, texts=texts))

    test_step = validation_step


def told(indices: range, batch_size: int = 2):
    """The examples with a written thought, all but every fifth."""
    source = loader(indices, batch_size)
    examples = [replace(example(n), reasoning=None if n % 5 == 4 else WRITTEN) for n in indices]
    return torch.utils.data.DataLoader(examples, batch_size=batch_size, collate_fn=source.collate_fn)


def main(folder: Path) -> None:
    """Test and fit on uneven shares."""
    distributed = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False}
    torch.manual_seed(0)
    run = trainer(folder / "test", HeatmapMaskCorrelation(), ThoughtMaskCorrelation(), **distributed)
    run.test(Thinking(), told(SHARES[run.global_rank]), verbose=False)
    logged = {name: repr(float(value)) for name, value in run.callback_metrics.items()}
    (folder / f"test-{run.global_rank}.json").write_text(json.dumps(logged))

    torch.manual_seed(0)
    saved = ModelCheckpoint(folder / "saved")
    run = trainer(
        folder / "fit", HeatmapMaskCorrelation(), saved, max_epochs=2, enable_checkpointing=True, **distributed
    )
    module = Losing()
    # shares of 8 and 8 examples in batches of 2 and 4: batches of different weight
    run.fit(module, loader(range(8), 2) if run.global_rank == 0 else loader(range(8, 24), 4))
    (folder / f"fit-{run.global_rank}.json").write_text(json.dumps(module.computed))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
