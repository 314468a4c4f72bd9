"""The page: image and question on the left, thought, heatmap and mask on the right."""

from __future__ import annotations

import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coprs_lightning.cli_errors import is_message
from coprs_lightning.demo.pictures import figures, status, verdict
from coprs_lightning.images import read_image
from coprs_lightning.inference import Answer, stream
from coprs_lightning.prompts import CONCENTRATION_TOKEN

if TYPE_CHECKING:
    import numpy as np

    from coprs_lightning.model import CoprsModel

_TAGS = ("<think>", "</think>", CONCENTRATION_TOKEN)
_EVERY = 0.08
"""Seconds between two states of the text: more the browser only stumbles over."""
_OPACITY = 0.6
_LONGEST_QUESTION = 2000

Update = tuple[str, str, str]
"""Status line (HTML), thought (text), pictures (HTML)."""

CSS = """
#coprs-status .html-container, #coprs-pictures .html-container { padding: 0; }
.coprs-figures { display: flex; flex-wrap: wrap; gap: 16px; }
.coprs-figure { flex: 1 1 260px; min-width: 0; margin: 0; }
.coprs-figure figcaption { font-size: 14px; margin: 0 0 6px; color: var(--body-text-color); }
.coprs-stack { position: relative; line-height: 0; border-radius: 6px; overflow: hidden; }
.coprs-stack img { display: block; width: 100%; height: auto; margin: 0; }
.coprs-stack img.coprs-heat { position: absolute; inset: 0; height: 100%; opacity: var(--coprs-opacity, 0.6); }
a.coprs-link { display: inline-block; margin-top: 12px; padding: 6px 14px; border-radius: 6px; text-decoration: none;
  color: var(--button-secondary-text-color); background: var(--button-secondary-background-fill);
  border: 1px solid var(--border-color-primary); }
.coprs-objects { margin-top: 12px; border-collapse: collapse; }
.coprs-figures + * + table.coprs-objects :is(th, td) { padding: 5px 14px; text-align: left; }
.coprs-objects a.coprs-link { margin: 0; padding: 1px 10px; }
p.coprs-note, p.coprs-error { margin: 0; padding: 8px 12px; border-radius: 6px; }
p.coprs-note { background: var(--background-fill-secondary); color: var(--body-text-color); }
p.coprs-error { background: #fdecea; color: #8a1c12; border: 1px solid #e6a79f; }
"""

_SET_OPACITY = "(value) => { document.documentElement.style.setProperty('--coprs-opacity', value); }"
_CLEAR = "() => ['', '', '']"


def build(
    model: CoprsModel,
    *,
    name: str,
    examples: Sequence[tuple[Path, str]] = (),
    uploads: Path,
    max_pixels: int,
    max_new_tokens: int | None = None,
) -> Any:
    """The page as Gradio blocks.

    Args:
        model: a trained model.
        name: what the page calls it.
        examples: images and questions to choose from; their files must lie where Gradio may read.
        uploads: folder that images are uploaded to; files elsewhere are not read.
        max_pixels: largest image that is looked at.
        max_new_tokens: longest completion; ``None`` takes the model's.
    """
    import gradio as gr

    with gr.Blocks(title="CoPRS demo", analytics_enabled=False, delete_cache=(600, 1800)) as page:
        gr.Markdown(
            "# CoPRS: segment what a question asks for\n"
            "The model thinks about the question, looks at a place of the image (the heatmap), and draws a mask from "
            "there."
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                image = gr.Image(
                    label="Image", type="filepath", image_mode=None, sources=["upload", "clipboard"], height=360,
                    elem_id="coprs-image", buttons=[],
                )  # fmt: skip
                question = gr.Textbox(
                    label="Question", placeholder="What is left of the red circle?", lines=1, max_lines=6,
                    max_length=_LONGEST_QUESTION, submit_btn=False, elem_id="coprs-question",
                )  # fmt: skip
                button = gr.Button("Ask", variant="primary", elem_id="coprs-ask")
                if examples:
                    gr.Examples([[str(file), text] for file, text in examples], [image, question], label="Examples")
            with gr.Column(scale=3, min_width=320):
                line = gr.HTML(status("Give an image and a question, and ask."), elem_id="coprs-status")
                thought = gr.Textbox(label="Thought", lines=3, max_lines=12, interactive=False, elem_id="coprs-thought")
                pictures = gr.HTML("", elem_id="coprs-pictures")
                opacity = gr.Slider(
                    0, 1, value=_OPACITY, step=0.05, label="Opacity of the heatmap", elem_id="coprs-opacity"
                )
        gr.Markdown(f"Model: `{name.replace('`', '')}`")
        outputs = [line, thought, pictures]
        asked = gr.on(
            [button.click, question.submit],
            answering(model, uploads=uploads, max_pixels=max_pixels, max_new_tokens=max_new_tokens),
            [image, question],
            outputs,
            preprocess=False,  # Gradio would open the file itself, with no limit of its pixels
            concurrency_limit=1,
            show_progress="hidden",
            api_visibility="private",
        )
        opacity.change(None, [opacity], js=_SET_OPACITY, api_visibility="private")
        # an answer must not stand beside an image that it is not about
        image.change(None, None, outputs, js=_CLEAR, cancels=[asked], api_visibility="private")
    return page.queue(max_size=20, default_concurrency_limit=1, api_open=False)


def answering(
    model: CoprsModel, *, uploads: Path, max_pixels: int, max_new_tokens: int | None = None
) -> Callable[[Any, Any], Iterator[Update]]:
    """What happens when somebody asks.

    Returns:
        a function of the uploaded image, as the browser describes it, and the question; it gives states of the page.
    """

    def ask(uploaded: Any, question: Any) -> Iterator[Update]:
        try:
            yield from _states(model, _opened(uploaded, uploads, max_pixels), question, max_new_tokens)
        except Exception as error:
            if not is_message(error):
                traceback.print_exc(file=sys.stderr)
            text = str(error) if is_message(error) else "This went wrong inside the program; its terminal tells more."
            yield status(text, "error"), "", ""

    return ask


def _opened(uploaded: Any, uploads: Path, max_pixels: int) -> tuple[np.ndarray, str]:
    """Pixels and name of an uploaded image.

    Raises:
        ValueError: where there is none, it is broken or too large, or lies elsewhere.
    """
    if not isinstance(uploaded, dict) or not uploaded.get("path"):
        raise ValueError("There is no image yet. Upload one, paste it, or choose an example.")
    path = Path(str(uploaded["path"])).resolve()
    if not path.is_relative_to(uploads.resolve()):
        raise ValueError("This image was not uploaded here. Upload it.")
    name = Path(str(uploaded.get("orig_name") or path.name)).name
    return read_image(path, name=name, max_pixels=max_pixels), name


def _states(
    model: CoprsModel, image: tuple[np.ndarray, str], question: Any, max_new_tokens: int | None
) -> Iterator[Update]:
    """States of the page while a question is answered.

    Raises:
        ValueError: for a missing or long question, and what :meth:`CoprsModel.segment` refuses.
    """
    pixels, name = image
    if not isinstance(question, str) or not question.strip():
        raise ValueError("There is no question yet. What should be found in the image?")
    if len(question) > _LONGEST_QUESTION:
        raise ValueError(f"The question has {len(question)} characters, at most {_LONGEST_QUESTION} are read.")
    yield status("Thinking …"), "", ""
    told = time.monotonic()
    for item in stream(model, pixels, question, max_new_tokens=max_new_tokens):
        if isinstance(item, Answer):
            stem = re.sub(r"[^\w-]", "_", Path(name).stem)[:80] or "image"
            yield status(verdict(item)), readable(item.completion), figures(pixels, item, stem)
        elif time.monotonic() - told > _EVERY:
            told = time.monotonic()
            yield status("Thinking …"), readable(item), ""


def readable(completion: str) -> str:
    """A completion, finished or not, without tags and tokens."""
    for tag in _TAGS:
        completion = completion.replace(tag, "\n" if tag == "</think>" else "")
    for tag in _TAGS:  # the beginning of one that is just being written
        for length in range(len(tag) - 1, 0, -1):
            if completion.endswith(tag[:length]):
                completion = completion[:-length]
                break
    return "\n".join(line.strip() for line in completion.splitlines() if line.strip())
