"""The best, the worst and some answers at random, with their thoughts (paper Figure 4)."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path

from coprs_lightning.report.example_lines import FAILED, ExampleLine, reason
from coprs_lightning.report.html import clipped, code, details, esc, note, number
from coprs_lightning.report.run_files import EVALUATION, RunFiles

_KINDS = {"worst": "Worst", "best": "Best", "random": "Random"}
_WIDEST = 1500  # pixels
_QUALITY = 82


def panels(run: RunFiles, examples: Sequence[ExampleLine]) -> str:
    """Panels of the evaluation; those of the newest validation where there is none."""
    root = run.folder / EVALUATION / "panels"
    files = sorted(root.glob("*/*.png")) + sorted(root.glob("*.png"))
    if files:
        return _evaluated(files, root, examples)
    command = code(f"coprs evaluate --checkpoint {run.folder}")
    text = note(f"The best, worst and random answers of whole splits are drawn by {command}.")
    shown = [_panel(path, path.stem, None) for path in _newest(run)]
    if not shown:
        return text
    return f"{text}<h3>First examples of the newest validation</h3>{''.join(shown)}"


def _newest(run: RunFiles) -> list[Path]:
    found = run.newest("panels/*/*.png")
    newest = max((path.parent.name for path in found), default="")
    return [path for path in found if path.parent.name == newest][:8]


def _evaluated(files: Sequence[Path], root: Path, examples: Sequence[ExampleLine]) -> str:
    known = {(_safe(one.split), _safe(one.key)): one for one in examples}
    # a question asked in every wording has one key more than its target
    known |= {(_safe(one.split), _safe(f"{one.key}/0")): one for one in examples if one.unit == "target"}
    parts: list[str] = []
    for split in dict.fromkeys(path.parent for path in files):
        name = split.name if split != root else ""
        for kind, title in _KINDS.items():
            chosen = [path for path in files if path.parent == split and path.name.startswith(f"{kind}-")]
            drawn = []
            for path in chosen:
                found = re.fullmatch(rf"{kind}-\d+-(.*)", path.stem)
                key = found[1] if found else path.stem
                drawn.append(_panel(path, key, known.get((name, key))))
            if drawn:
                label = f"{title} of {name}" if name else title
                parts.append(details(f"{label} ({len(drawn)})", "".join(drawn), opened=not parts))
    return "".join(parts)


def _panel(path: Path, key: str, line: ExampleLine | None) -> str:
    picture = _picture(path)
    if not picture:
        return note(f"The picture {code(path.name)} cannot be read.")
    words = key if line is None else f"{line.question} – image, heatmap, prediction and ground truth"
    rows = [("example", code(line.key if line else key))]
    if line is not None:
        scores = f"mask {number(line.iou)}, heatmap {number(line.heatmap_iou)}"
        if line.thought_score is not None:
            scores += f", facts of the thought {number(line.thought_score, 2)}"
        rows += [
            ("IoU", scores),
            ("kind", esc(line.kind or "–")),
            ("question", esc(line.question)),
            ("thought", clipped(line.thought) or '<span class="soft">(none)</span>'),
        ]
        if line.written_thought and line.written_thought != line.thought:
            rows.append(("written", clipped(line.written_thought)))
        if not line.well_formed:
            rows.append(("completion", clipped(line.completion) or '<span class="soft">(nothing was written)</span>'))
        if line.iou < FAILED:
            rows.append(("failed", f'<span class="bad">{esc(reason(line))}</span>'))
    facts = "".join(f"<dt>{esc(name)}</dt><dd>{value}</dd>" for name, value in rows)
    image = f'<div class="scroll" tabindex="0"><img src="{picture}" alt="{esc(words)}"></div>'
    return f'<article class="panel">{image}<dl>{facts}</dl></article>'


def _picture(path: Path) -> str:
    """A picture inside the page, small enough that pages stay so; ``""`` for what is none."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return ""
    image.thumbnail((_WIDEST, 4 * _WIDEST))
    data = io.BytesIO()
    image.save(data, "WEBP", quality=_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"


def _safe(text: str) -> str:
    """A key as the evaluation spells it in file names."""
    return re.sub(r"[^A-Za-z0-9._+=-]+", "-", text)[:80]
