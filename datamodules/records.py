"""What one tar sample holds: an image and the targets annotated in it (the JSON member of a shard)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Target:
    """One annotated target of an image.

    Attributes:
        target_id: unique inside the image.
        expressions: questions or referring expressions that mean this target; at least one.
        masks: COCO RLEs ``{"size": [H, W], "counts": str}``; several = several instances (their union is the mask),
            none = no target in the image.
        ignore: RLE of pixels that count neither for nor against, or ``None``.
        reasoning: written chain of thought that leads to the target, or ``None``.
        kind: kind of question, ``""`` when unknown.
        distractors: other objects of the image that could be taken for the target (those of its category, where the
            source has categories), or ``None`` when unknown.
    """

    target_id: str
    expressions: list[str]
    masks: list[dict[str, Any]]
    ignore: dict[str, Any] | None = None
    reasoning: str | None = None
    kind: str = ""
    distractors: int | None = None


@dataclass
class ImageRecord:
    """The JSON member of a tar sample.

    Attributes:
        key: name of the sample inside its split; no dot, no slash (webdataset cuts keys at the first dot).
        image_id: id in the source.
        file_name: file name in the source.
        height: pixels.
        width: pixels.
        targets: annotated targets.
    """

    key: str
    image_id: str
    file_name: str
    height: int
    width: int
    targets: list[Target] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain data for the shard; ``key`` is the member's name, not part of it."""
        content = asdict(self)
        del content["key"]
        return content
