"""`coprs segment`: a mask for one question about one image, with the thought that led to it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coprs_lightning.cli_errors import note
from coprs_lightning.commands import CommandError

if TYPE_CHECKING:
    import numpy as np

    from coprs_lightning.module import CoprsModule
    from coprs_lightning.prompts import ParsedCompletion

HELP = "segment one image by a question: mask, heatmap, overlay and the thought"

_MAX_ASPECT = 200  # the vision towers refuse longer strips
_OVERLAY_ALPHA = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See :mod:`coprs_lightning.commands`."""
    parser.add_argument("--checkpoint", required=True, metavar="PATH", help="folder of a run, or a .ckpt file")
    parser.add_argument("--image", required=True, metavar="FILE", help="image of any usual format")
    parser.add_argument("--question", required=True, metavar="TEXT", help="what to look for")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the results; made where missing")
    parser.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="longest completion; by default the checkpoint's"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps …")


def run(args: argparse.Namespace) -> int:
    """See :mod:`coprs_lightning.commands`.

    Raises:
        CommandError: for a missing or broken checkpoint or image, or a question that cannot be asked.
    """
    if not args.question.strip():
        raise CommandError("--question is empty: there is nothing to look for. Ask for something.")
    if args.max_new_tokens is not None and args.max_new_tokens < 1:
        raise CommandError(f"--max-new-tokens must be at least 1, got {args.max_new_tokens}.")
    output = Path(args.output)
    if output.exists() and not output.is_dir():
        raise CommandError(f"--output {output} is a file. Name a folder.")
    image = read_image(Path(args.image))
    path, module = _load(args.checkpoint, args.device)
    answer = ask(module, image, args.question, args.max_new_tokens)
    _warn(answer.parsed, answer.truncated)
    _write(output, image, answer, {"question": args.question, "image": str(args.image), "checkpoint": str(path)})
    print(answer.parsed.thought or answer.completion)
    note(f"wrote mask.png, heatmap.png, overlay.png and result.json to {output}")
    return 0


def read_image(path: Path) -> np.ndarray:
    """Read an image as a person sees it: turned by its EXIF orientation, transparency on white, 16 bit as 8.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        CommandError: for a file that is missing or no image, or a strip that no vision tower takes.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not path.is_file():
        raise CommandError(f"there is no image {path}.")
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
    except UnidentifiedImageError as error:
        raise CommandError(f"{path} is no image in a format that Pillow knows.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CommandError(f"image {path} cannot be read (broken or cut short): {error}") from error
    width, height = image.size
    if max(width, height) > _MAX_ASPECT * min(width, height):
        raise CommandError(
            f"image {path} has {width} × {height} pixels: more than {_MAX_ASPECT} times as long as wide. Crop it."
        )
    return _rgb(image)


def _rgb(image: Any) -> np.ndarray:
    """Any Pillow mode as (H, W, 3) uint8."""
    import numpy as np
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float64)
        if image.mode.startswith("I;16") or values.max(initial=0) > 255:  # 16 bit: 65 535 is white
            values = values / 257
        image = Image.fromarray(np.rint(np.clip(values, 0, 255)).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.array(image.convert("RGB"))


@dataclass
class Answer:
    """What the model says about one image.

    Attributes:
        completion: the text as generated.
        parsed: its parts.
        truncated: whether the length limit cut it.
        mask: (H, W) float32 probabilities of the mask.
        heatmap: (H, W) float32 probabilities of the positional prior.
    """

    completion: str
    parsed: ParsedCompletion
    truncated: bool
    mask: np.ndarray
    heatmap: np.ndarray


def ask(module: CoprsModule, image: np.ndarray, question: str, max_new_tokens: int | None = None) -> Answer:
    """Let the model think about a question and segment from its thought.

    Args:
        module: a trained module.
        image: (H, W, 3) uint8 RGB.
        question: free-form question.
        max_new_tokens: longest completion; ``None`` takes the module's.
    """
    import torch

    from coprs_lightning.geometry import restore
    from coprs_lightning.prompts import parse_completion

    pixels = torch.from_numpy(image).permute(2, 0, 1)
    batch, output = module.model.generate_and_segment(
        [pixels], [question], max_new_tokens=max_new_tokens or module.generation.max_new_tokens
    )
    valid = tuple(batch.valid_sizes[0].tolist())

    def at_original(logits: torch.Tensor) -> np.ndarray:
        restored = restore(logits[0], valid, image.shape[:2], module.image_size)
        found: np.ndarray = restored.amax(0).sigmoid().cpu().numpy()
        return found

    text = output.completions.texts[0]
    return Answer(
        completion=text,
        parsed=parse_completion(text),
        truncated=bool(output.completions.truncated[0]),
        mask=at_original(output.mask_logits),
        heatmap=at_original(output.heatmap_logits),
    )


def summary(answer: Answer) -> dict[str, Any]:
    """The answer in numbers and words, as ``result.json`` holds it."""
    import numpy as np

    mask = answer.mask > 0.5
    rows, columns = np.nonzero(mask)
    peak = np.unravel_index(int(answer.heatmap.argmax()), answer.heatmap.shape)
    present = answer.parsed.num_tokens > 0
    return {
        "thought": answer.parsed.thought,
        "answer": answer.parsed.answer,
        "completion": answer.completion,
        "well_formed": answer.parsed.well_formed,
        "truncated": answer.truncated,
        "token_present": present,
        "num_tokens": answer.parsed.num_tokens,
        "box_xyxy": [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
        if mask.any()
        else None,
        "area": {"pixels": int(mask.sum()), "share": float(mask.mean())},
        "scores": {
            "mask_probability": float(answer.mask[mask].mean()) if mask.any() else None,
            "heatmap_peak": float(answer.heatmap.max()),
            "heatmap_peak_xy": [int(peak[1]), int(peak[0])] if present else None,
        },
        "image_size": {"width": int(mask.shape[1]), "height": int(mask.shape[0])},
    }


def _load(checkpoint: str, device: str) -> tuple[Path, CoprsModule]:
    import torch

    from coprs_lightning.cli_checkpoint import find_checkpoint, read_header
    from coprs_lightning.module import CoprsModule

    found = find_checkpoint(checkpoint)
    read_header(found.path)
    if found.kind:
        note(f"using the {found.kind} checkpoint of {checkpoint}: {found.path}")
    if device == "auto":
        mps = "mps" if torch.backends.mps.is_available() else "cpu"
        device = "cuda" if torch.cuda.is_available() else mps
    module = CoprsModule.from_checkpoint(found.path)
    try:
        return found.path, module.to(device)
    except (RuntimeError, AssertionError) as error:
        raise CommandError(f"--device {device}: {str(error).splitlines()[0]}") from error


def _warn(parsed: ParsedCompletion, truncated: bool) -> None:
    if truncated:
        note("warning: the completion reached --max-new-tokens and was cut")
    if parsed.num_tokens == 0:
        note("warning: the completion has no concentration token, so there is no heatmap and the mask is empty")
    elif parsed.num_tokens > 1:
        note(f"warning: the completion has {parsed.num_tokens} concentration tokens; the last one is used")


def _write(output: Path, image: np.ndarray, answer: Answer, asked: dict[str, str]) -> None:
    import numpy as np
    from PIL import Image

    from callbacks.drawing import PREDICTION_COLOR, heatmap_colors, overlay
    from callbacks.files import write_json

    output.mkdir(parents=True, exist_ok=True)
    mask = answer.mask > 0.5
    Image.fromarray(mask.astype(np.uint8) * 255).save(output / "mask.png")
    Image.fromarray(heatmap_colors(answer.heatmap)).save(output / "heatmap.png")
    Image.fromarray(overlay(image, mask, PREDICTION_COLOR, _OVERLAY_ALPHA)).save(output / "overlay.png")
    write_json(output / "result.json", {**asked, **summary(answer)})
