"""The whole model: policy → aggregator → heatmap head → decoder over backbone features (paper Figure 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor, nn

from coprs_lightning.aggregators import ConcentrationAggregator
from coprs_lightning.backbones import ImageBackbone
from coprs_lightning.component import Component
from coprs_lightning.decoders import MaskDecoder
from coprs_lightning.heatmap_heads import HeatmapHead
from coprs_lightning.images import ImageLike
from coprs_lightning.inference import Answer, ask, batch_from_images, evaluating
from coprs_lightning.policies import Policy
from coprs_lightning.structures import NO_PRIOR_LOGIT, Completions, Prompts, SegmentationBatch, SegmentationOutput


class CoprsModel(nn.Module):
    """Holds the five parts and runs them in order; no losses, no logging.

    Args:
        policy: writes the chain of thought and gives hidden states.
        backbone: image features.
        aggregator: hidden states → query.
        heatmap_head: query × features → heatmap.
        decoder: features × heatmap → mask.

    Attributes:
        max_new_tokens: longest completion where a caller names none.
    """

    max_new_tokens: int = 512

    def __init__(
        self,
        *,
        policy: Policy,
        backbone: ImageBackbone,
        aggregator: ConcentrationAggregator,
        heatmap_head: HeatmapHead,
        decoder: MaskDecoder,
    ) -> None:
        super().__init__()
        self.policy = policy
        self.backbone = backbone
        self.aggregator = aggregator
        self.heatmap_head = heatmap_head
        self.decoder = decoder
        self.check_sizes()
        for component in self.components().values():
            component.freeze_if_asked()

    @classmethod
    def from_pretrained(
        cls,
        folder_or_id: str | Path,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        trust_remote_code: bool = False,
    ) -> CoprsModel:
        """Load a model that `coprs export` wrote, exactly as it was, in eval mode.

        No pickle is read, and every weight must be there, be expected and have its shape.

        Args:
            folder_or_id: the folder, or its id on the Hugging Face hub.
            device: where the weights go; ``None`` is the CPU.
            dtype: type of all floating-point weights; ``None`` keeps the saved one.
            trust_remote_code: build classes of other packages too, which runs their code.

        Raises:
            ValueError: naming the keys that do not fit, or the class that is not of this package.
        """
        from coprs_lightning.checkpoints import exported_folder, read_folder

        folder = exported_folder(folder_or_id)
        if folder is None:
            raise ValueError(
                f"{folder_or_id} is no folder of `coprs export`. Export the run or checkpoint first, or load it as it "
                "is with coprs_lightning.checkpoints.load_model."
            )
        return read_folder(folder, device=device, dtype=dtype, trust_remote_code=trust_remote_code)

    def components(self) -> dict[str, Component]:
        """The parts by slot name."""
        return {
            "policy": self.policy,
            "backbone": self.backbone,
            "aggregator": self.aggregator,
            "heatmap_head": self.heatmap_head,
            "decoder": self.decoder,
        }

    def check_sizes(self) -> None:
        """Refuse parts whose sizes do not fit together, before any data is read.

        Raises:
            ValueError: naming both options and both values.
        """
        pairs = [
            ("policy", "hidden_size", "aggregator", "hidden_size"),
            ("aggregator", "query_dim", "heatmap_head", "query_dim"),
            ("backbone", "out_channels", "heatmap_head", "in_channels"),
            ("backbone", "out_channels", "decoder", "in_channels"),
        ]
        for giver, given_name, taker, taken_name in pairs:
            given_part, taken_part = getattr(self, giver), getattr(self, taker)
            given, taken = getattr(given_part, given_name), getattr(taken_part, taken_name)
            if given != taken:
                raise ValueError(
                    f"sizes do not fit: {type(given_part).__name__} (model.{giver}) has {given_name} {given}, but "
                    f"{type(taken_part).__name__} (model.{taker}) was built with {taken_name} {taken}. Leave "
                    f"model.{taker}.init_args.{taken_name} out of the config: it follows model.{giver}."
                )
        asked, read = self.policy.num_tokens, self.aggregator.num_tokens
        if asked != read:
            raise ValueError(
                f"sizes do not fit: completions have {asked} concentration tokens "
                f"(model.policy.init_args.prompt.num_tokens), but {type(self.aggregator).__name__} (model.aggregator) "
                f"reads {read}. Set prompt.num_tokens: {read}, or take an aggregator for {asked}, such as "
                f"{'LastTokenAggregator' if asked == 1 else 'MultiTokenAggregator'}."
            )

    @property
    def image_size(self) -> int:
        """Side S of the frames."""
        return self.backbone.image_size

    def features(self, batch: SegmentationBatch) -> Tensor:
        """(B, C, h, w) features: from the batch where they are precomputed, else from the backbone, once a frame."""
        if batch.features is not None:
            return batch.features.to(self.dtype)
        frames, valid_sizes, inverse = batch.frames, batch.valid_sizes, None
        if batch.frame_index is not None:
            first, inverse = batch.frame_index.unique(return_inverse=True)
            frames, valid_sizes = frames[first], valid_sizes[first]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.backbone.frozen):
            features: Tensor = self.backbone(frames, valid_sizes)
        return features if inverse is None else features[inverse]

    @property
    def dtype(self) -> torch.dtype:
        """Parameter type of the segmentation parts."""
        return next((p.dtype for p in self.heatmap_head.parameters()), torch.float32)

    def forward(
        self,
        batch: SegmentationBatch,
        prompts: Prompts,
        completions: Completions,
        features: Tensor | None = None,
    ) -> SegmentationOutput:
        """Segment from given completions.

        Args:
            batch: B frames (3, S, S) and valid sizes.
            prompts: B encoded prompts of the batch.
            completions: B·G written or generated completions, the G of a prompt beside each other.
            features: reuse features of an earlier pass over the same batch.

        Returns:
            heatmap and mask logits of B·G rows; ``NO_PRIOR_LOGIT`` in rows without a concentration token.
        """
        output = self.policy(prompts, completions)
        # a policy in half precision feeds segmentation parts in full precision
        concentration = self.aggregator(replace(output, hidden=output.hidden.to(self.dtype)))
        features = self.features(batch) if features is None else features
        # a group's queries are more queries of one image: its features are projected once
        query = concentration.query.reshape(len(features), -1, concentration.query.shape[-1])  # (B, G·K, Dq)
        heatmap = self.heatmap_head(query, features)  # (B, G·K, H', W')
        masks = self.decoder(features, heatmap, batch.valid_sizes, self.image_size)  # (B, G·K, H'', W'')
        rows = concentration.present.shape  # (B·G, K)
        heatmap, masks = (logits.reshape(*rows, *logits.shape[-2:]) for logits in (heatmap, masks))
        present = concentration.present[..., None, None]
        valid_sizes = batch.valid_sizes.repeat_interleave(len(present) // len(batch), 0)
        return SegmentationOutput(
            heatmap_logits=torch.where(present, heatmap, NO_PRIOR_LOGIT),
            mask_logits=torch.where(present, masks, NO_PRIOR_LOGIT),
            present=concentration.present,
            policy=output,
            completions=completions,
            confidence_logits=self.aggregator.confidence_with(concentration, heatmap, valid_sizes, self.image_size),
        )

    @overload
    def segment(
        self,
        images: ImageLike,
        questions: str,
        *,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        batch_size: int = 8,
    ) -> Answer: ...

    @overload
    def segment(
        self,
        images: list[Any] | tuple[Any, ...],
        questions: str | list[str] | tuple[str, ...],
        *,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        batch_size: int = 8,
    ) -> list[Answer]: ...

    @overload
    def segment(
        self,
        images: ImageLike,
        questions: list[str] | tuple[str, ...],
        *,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        batch_size: int = 8,
    ) -> list[Answer]: ...

    def segment(
        self,
        images: ImageLike | list[Any] | tuple[Any, ...],
        questions: str | list[str] | tuple[str, ...],
        *,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        batch_size: int = 8,
    ) -> Answer | list[Answer]:
        """Answer questions about images, in eval mode: a thought, and the heatmap and mask that follow from it.

        Args:
            images: one image or a list of them: paths, Pillow images, arrays (H, W, 3) or tensors (3, H, W), both uint8
                RGB.
            questions: one question or a list of them. One of anything goes with each of the other.
            max_new_tokens: longest completion; ``None`` takes :attr:`max_new_tokens`.
            temperature: 0 decodes greedily.
            batch_size: questions that are answered at a time.

        Returns:
            one answer for one image and one question, else a list in the order of the questions.

        Raises:
            ValueError: for what is no image, an empty question, or numbers that do not fit.
        """
        return ask(
            self,
            images,
            questions,
            max_new_tokens=self.max_new_tokens if max_new_tokens is None else max_new_tokens,
            temperature=temperature,
            batch_size=batch_size,
        )

    def generate_and_segment(
        self, images: Sequence[Tensor], questions: Sequence[str], *, max_new_tokens: int, temperature: float = 0.0
    ) -> tuple[SegmentationBatch, SegmentationOutput]:
        """Generate thoughts and segment from them, in eval mode; :meth:`segment` makes answers of it.

        Args:
            images: B tensors (3, H_i, W_i) uint8 RGB.
            questions: B questions.
            max_new_tokens: longest completion.
            temperature: 0 decodes greedily.

        Returns:
            the batch that was built (for its geometry) and the output; :func:`~coprs_lightning.geometry.restore` brings
            the logits back to each image's size.
        """
        batch = batch_from_images(images, questions, self.image_size).to(self.policy.device)
        with evaluating(self):
            prompts = self.policy.encode_prompts(batch.images, batch.questions)
            completions = self.policy.generate(prompts, max_new_tokens=max_new_tokens, temperature=temperature)
            return batch, self(batch, prompts, completions)
