"""An answer as HTML that needs no further requests: every picture and download is inside it."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np

from callbacks.drawing import PREDICTION_COLOR, heatmap_colors, overlay
from coprs_lightning.inference import Answer

_SIDE = 960
"""Longer side of the pictures in the page, pixels; downloads have the image's own size."""


def figures(image: np.ndarray, answer: Answer, name: str) -> str:
    """Heatmap and mask over the image, links to the masks, and a list of the objects where there are several.

    The heatmap lies over the image with the opacity of the CSS variable ``--coprs-opacity``.

    Args:
        image: (H, W, 3) uint8 RGB.
        answer: the answer about it.
        name: what downloads are called, without ending.
    """
    small = _fitted(image)
    ground = _picture(small, "JPEG")
    heat = _picture(heatmap_colors(_fitted(answer.heatmap)), "JPEG")
    outlined = _picture(_outlined(small, _fitted(answer.mask.astype(np.float32)) > 0.5), "JPEG")
    left = (
        f'<figure class="coprs-figure"><figcaption>Heatmap: where the model looks</figcaption><div class="coprs-stack">'
        f'<img src="{ground}" alt="image"><img class="coprs-heat" src="{heat}" alt="heatmap"></div></figure>'
    )
    right = (
        f'<figure class="coprs-figure"><figcaption>Mask: {_share(answer.mask)}</figcaption>'
        f'<div class="coprs-stack"><img class="coprs-mask" src="{outlined}" alt="mask over the image"></div></figure>'
    )
    return f'<div class="coprs-figures">{left}{right}</div>{_downloads(answer, name)}'


def _downloads(answer: Answer, name: str) -> str:
    if not answer.mask.any():
        return ""
    links = [_link("Download mask (PNG)", answer.mask, f"{name}-mask.png", "coprs-download")]
    if len(answer.objects) < 2:
        return links[0]
    rows = "".join(
        f"<tr><td>{number}</td><td>{one.score:.2f}</td><td>{_share(one.mask)}</td>"
        f"<td>{_link('PNG', one.mask, f'{name}-object-{number}.png')}</td></tr>"
        for number, one in enumerate(answer.objects, 1)
    )
    head = "<tr><th>object</th><th>score</th><th>size</th><th>mask</th></tr>"
    return f'{links[0]}<table class="coprs-objects"><thead>{head}</thead><tbody>{rows}</tbody></table>'


def verdict(answer: Answer) -> str:
    """One line that says what came out."""
    if not answer.present:
        line = "No mask: the model wrote no concentration token, so it points nowhere."
        return line + (" Its text was cut at the length limit." if answer.truncated else "")
    if answer.nothing_fits:
        return "Nothing fits: the model finds nothing in the image that the question asks for."
    several = f"{len(answer.objects)} objects, best " if len(answer.objects) > 1 else ""
    return f"Found: {several}score {answer.score:.2f}."


def status(text: str, kind: str = "note") -> str:
    """A line of the page for the user.

    Args:
        text: plain text.
        kind: ``note`` or ``error``.
    """
    role = "alert" if kind == "error" else "status"
    return f'<p class="coprs-{escape(kind)}" role="{role}">{escape(text)}</p>'


def _share(mask: np.ndarray) -> str:
    return f"{100 * mask.mean():.1f} % of the image" if mask.any() else "empty"


def _link(text: str, mask: np.ndarray, file: str, elem_id: str = "") -> str:
    content = _picture(mask.astype(np.uint8) * 255, "PNG")
    mark = f' id="{elem_id}"' if elem_id else ""
    return f'<a class="coprs-link"{mark} download="{escape(file)}" href="{content}">{escape(text)}</a>'


def _fitted(array: np.ndarray) -> np.ndarray:
    """A picture of about :data:`_SIDE` pixels; the pixels of small ones stay visible."""
    import cv2

    side = max(array.shape[:2])
    if 2 * side <= _SIDE:
        times = _SIDE // side
        return np.asarray(cv2.resize(array, None, fx=times, fy=times, interpolation=cv2.INTER_NEAREST))
    if side <= _SIDE:
        return array
    size = max(1, round(array.shape[1] * _SIDE / side)), max(1, round(array.shape[0] * _SIDE / side))
    return np.asarray(cv2.resize(array, size, interpolation=cv2.INTER_AREA))


def _outlined(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The masked part tinted, with a line around it that is seen on every colour; the rest darker."""
    import cv2

    picture = (image * 0.5).astype(np.uint8)
    picture[mask] = overlay(image, mask, PREDICTION_COLOR, 0.3)[mask]
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    for color, width in (((255, 255, 255), 6), (PREDICTION_COLOR, 3)):
        cv2.drawContours(picture, contours, -1, color, width, cv2.LINE_AA)
    return picture


def _picture(pixels: np.ndarray, kind: str) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=90)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
