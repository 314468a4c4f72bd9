"""An explanation as one HTML page that needs nothing beside itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from coprs_lightning.explain.explanation import Explanation, Reading
from coprs_lightning.explain.marks import AWAY, HOW_TO_READ, SURPRISE, TOWARDS, Mark, marks
from coprs_lightning.explain.pictures import Picture, Section, sections
from coprs_lightning.explain.words import Word
from coprs_lightning.report.html import clipped, details, esc, note, number, percent, table
from coprs_lightning.report.style import CSS

_OWN_CSS = """
.words{line-height:1.5;margin:.6rem 0}
.w{display:inline-block;vertical-align:top;margin:0 1px .35rem 0}
.w.gap{margin-left:.28em}
.w span{display:block;border-radius:3px;padding:0 1px;white-space:pre}
.w i{display:block;height:9px}
.w i b{display:block}
.pics{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,15.5rem),1fr));gap:.9rem}
.pics figure{margin:0}.pics img{width:100%;display:block;border-radius:.3rem}
.pics strong{font-size:.92rem}
"""


def page(explanation: Explanation, facts: Sequence[tuple[str, str]] = ()) -> str:
    """The page.

    Args:
        explanation: what to show.
        facts: further lines at the top, each with its label.
    """
    body = [
        f"<header><h1>{esc(explanation.question)}</h1>",
        *(f'<p class="soft">{esc(label)}: {esc(value)}</p>' for label, value in facts),
        "</header><main>",
        "<h2>What happened</h2><ul>",
        *(f"<li>{esc(sentence)}</li>" for sentence in explanation.findings),
        "</ul>",
        _thought(explanation),
        *(_section(section) for section in sections(explanation)),
        _table(explanation),
        "</main>",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{esc(explanation.question)}</title><style>{CSS}{_OWN_CSS}</style></head><body>"
        f"{''.join(body)}</body></html>\n"
    )


def _thought(explanation: Explanation) -> str:
    parts = ["<h2>The thought</h2>"]
    if explanation.region:
        parts.append(note(esc(HOW_TO_READ.format(region=explanation.region))))
    parts.append(_words(marks(explanation.words, explanation.prompt)) if explanation.words else "<p>nothing</p>")
    prompt = _words(marks(explanation.prompt, explanation.words))
    parts.append(details("the prompt, with the influence of its tokens", prompt))
    parts.append(details("every token in numbers", _numbers([*explanation.prompt, *explanation.words])))
    return "".join(parts)


def _words(marked: Sequence[Mark]) -> str:
    return f'<div class="words">{"".join(_word(mark) for mark in marked)}</div>'


def _word(mark: Mark) -> str:
    shade = f' style="background:rgba({",".join(map(str, SURPRISE))},{0.75 * mark.surprise:.2f})"'
    bars = "".join(_bar(value) for value in mark.bars if value is not None)
    gap = " gap" if mark.gap else ""
    end = "<br>" if mark.newline else ""
    return f'<span class="w{gap}" title="{esc(mark.words)}"><span{shade}>{esc(mark.text)}</span>{bars}</span>{end}'


def _bar(value: float) -> str:
    colour = ",".join(map(str, TOWARDS if value > 0 else AWAY))
    return f'<i><b style="height:{abs(value) * 8:.1f}px;background:rgb({colour})"></b></i>'


def _numbers(words: Sequence[Word]) -> str:
    rows = [
        [
            esc(repr(word.text)),
            esc(word.part),
            number(word.probability),
            number(word.entropy, 2),
            number(word.gradient, 5),
            number(word.left_out),
        ]
        for word in words
    ]
    return table(["token", "part", "probability", "entropy", "gradient", "left out"], rows, numeric_from=2)


def _section(section: Section) -> str:
    remark = note(esc(section.remark)) if section.remark else ""
    figures = "".join(_figure(picture) for picture in section.pictures)
    return f'<h2>{esc(section.title)}</h2>{remark}<div class="pics">{figures}</div>'


def _figure(picture: Picture) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture.pixels).save(file, "JPEG", quality=88, subsampling=0)
    data = base64.b64encode(file.getvalue()).decode()
    title, caption = esc(picture.title), esc(picture.caption)
    image = f'<img src="data:image/jpeg;base64,{data}" alt="{title}: {caption}">'
    return f"<figure><strong>{title}</strong>{image}<figcaption>{caption}</figcaption></figure>"


def _table(explanation: Explanation) -> str:
    with_target = explanation.target is not None
    head = ["", "mask / answer", "mask / heatmap", "mask, % of image"]
    head += ["mask / target", "heatmap / target", "heatmap in target, %"] if with_target else []

    def row(one: Reading) -> list[str]:
        cells = [esc(one.name), number(one.iou), number(one.decoder_iou), percent(one.mask.mean())]
        if with_target:
            cells += [number(one.iou_target), number(one.before_iou_target), percent(one.inside_target)]
        return cells

    readings = (explanation.original, *explanation.counterfactuals)
    texts = "".join(
        f"<h3>{esc(one.name)}</h3><p>{clipped(one.completion)}</p>" for one in readings if one.completion is not None
    )
    remark = note("mask / answer and so on are IoUs; the heatmap counts where it is above 0.5")
    return f"<h2>In numbers</h2>{remark}{table(head, [row(one) for one in readings])}<h2>In words</h2>{texts}"
