"""Small datasets in the original layouts, for the converters to read."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SQUARE = [[4, 4], [20, 4], [20, 20], [4, 20]]


def save_photo(path: Path, *, height: int = 30, width: int = 40, seed: int = 0, exif: Image.Exif | None = None) -> Path:
    """Write a photo of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **({} if exif is None else {"exif": exif}))
    return path


def save_lisa(
    folder: Path,
    stem: str = "a",
    *,
    shapes: Sequence[tuple[str, Any]] = (("target", SQUARE),),
    text: Any = ("what is it?",),
    is_sentence: Any = True,
    suffix: str = ".jpg",
    encoding: str = "utf-8",
    **photo: Any,
) -> Path:
    """Write an image with its LISA JSON file, whose path is returned."""
    save_photo(folder / f"{stem}{suffix}", **photo)
    content = {
        "text": list(text) if isinstance(text, tuple) else text,
        "is_sentence": is_sentence,
        "shapes": [{"label": label, "points": points, "shape_type": "polygon"} for label, points in shapes],
    }
    path = folder / f"{stem}.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
    return path


def ref(ref_id: int, ann_id: int, image_id: int, split: str = "train", sents: Sequence[str] = ("left thing",)) -> dict:
    """One ref as the REFER pickles have it."""
    sentences = [{"sent": sent, "sent_id": 10 * ref_id + n, "raw": sent, "tokens": []} for n, sent in enumerate(sents)]
    return {
        "ref_id": ref_id,
        "ann_id": ann_id,
        "image_id": image_id,
        "split": split,
        "category_id": 1,
        "file_name": f"COCO_train2014_{image_id:012d}_{ref_id}.jpg",
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
        "sentences": sentences,
    }


def save_refer(
    root: Path,
    refs: Any,
    segmentations: dict[int, tuple[int, Any]],
    *,
    dataset: str = "refcoco",
    split_by: str = "unc",
    height: int = 30,
    width: int = 40,
    photos: bool = True,
) -> Path:
    """Write a REFER root.

    Args:
        root: where.
        refs: content of the refs file.
        segmentations: image id and ``segmentation`` of each annotation id.
        dataset: folder of the dataset.
        split_by: in the name of the refs file.
        height: of every image.
        width: of every image.
        photos: write the photos too.
    """
    folder = root / dataset
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"refs({split_by}).p").write_bytes(pickle.dumps(refs, protocol=2))
    ids = sorted({image_id for image_id, _ in segmentations.values()})
    names = {image_id: f"COCO_train2014_{image_id:012d}.jpg" for image_id in ids}
    images = [{"id": i, "file_name": names[i], "height": height, "width": width} for i in ids]
    annotations = [
        {"id": ann_id, "image_id": image_id, "category_id": 1, "segmentation": segmentation, "iscrowd": 0}
        for ann_id, (image_id, segmentation) in segmentations.items()
    ]
    (folder / "instances.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    if photos:
        for image_id in ids:
            photo = root / "images/mscoco/images/train2014" / names[image_id]
            save_photo(photo, height=height, width=width, seed=image_id)
    return root
