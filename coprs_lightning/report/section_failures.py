"""Where the model fails: by reason, by kind of question, by size, by what it wrote."""

from __future__ import annotations

import math
from collections.abc import Sequence

from coprs_lightning.report.example_lines import FAILED, REASONS, SIZES, ExampleLine, reason, size
from coprs_lightning.report.html import code, details, esc, note, number, percent, table
from coprs_lightning.report.run_files import RunFiles

_BINS = 20
_NAMED = 5


def failures(run: RunFiles, examples: Sequence[ExampleLine]) -> str:
    """Tables for every evaluated split."""
    if not examples:
        return note(
            "Failures are counted over single examples, which are not there. Make them with "
            f"{code(f'coprs evaluate --checkpoint {run.folder}')} (without <code>--parquet</code>)."
        )
    splits = dict.fromkeys(one.split for one in examples)
    found = {split: _split([one for one in examples if one.split == split]) for split in splits}
    *others, (last, content) = found.items()
    # the last split is the test split, where there is one
    parts = [f"<h3>{esc(last)}</h3>{content}", *(details(split, content) for split, content in others)]
    return f'<p class="soft">An example counts as failed where its mask has an IoU below {FAILED}.</p>{"".join(parts)}'


def _split(lines: Sequence[ExampleLine]) -> str:
    failed = [one for one in lines if one.iou < FAILED]
    parts = [_histogram(lines), _reasons(failed, len(lines))]
    kinds = sorted({one.kind for one in lines if one.kind})
    if kinds:
        groups = [(kind, [one for one in lines if one.kind == kind]) for kind in kinds]
        parts.append(_buckets("kind of question", groups))
    sized = [(name, [one for one in lines if size(one) == name]) for name, _ in SIZES]
    parts.append(_buckets("size of the target", [group for group in sized if group[1]]))
    numbers = sorted({one.distractors for one in lines if one.distractors is not None})
    others = [(f"{number:,}", [one for one in lines if one.distractors == number]) for number in numbers]
    parts.append(_buckets("objects that could be taken for the target", others))
    written = [
        ("well formed", [one for one in lines if one.well_formed]),
        ("malformed", [one for one in lines if not one.well_formed]),
        ("cut off at the length limit", [one for one in lines if one.truncated]),
        ("no concentration token", [one for one in lines if not one.present]),
        ("empty mask", [one for one in lines if one.nothing_marked]),
        ("nothing to be marked", [one for one in lines if one.no_target]),
        ("thought all right", [one for one in lines if one.thought_score == 1]),
        ("thought not all right", [one for one in lines if one.thought_score is not None and one.thought_score < 1]),
    ]
    parts.append(_buckets("what was written and marked", [group for group in written if group[1]]))
    return "".join(parts)


def _reasons(failed: Sequence[ExampleLine], of: int) -> str:
    head = f"<p><b>{len(failed):,} of {of:,} failed</b> ({percent(len(failed) / of)} %).</p>"
    if not failed:
        return head
    rows = []
    for name, _ in REASONS:
        chosen = sorted((one for one in failed if reason(one) == name), key=lambda one: (one.iou, one.key))
        if chosen:
            named = "".join(
                f"<li>{code(one.key)} {esc(one.question)} (IoU {number(one.iou)})</li>" for one in chosen[:_NAMED]
            )
            worst = details(f"the {min(len(chosen), _NAMED)} worst", f"<ul>{named}</ul>")
            share = len(chosen) / len(failed)
            rows.append([esc(name), f"{len(chosen):,}", f"{percent(share)} % {_bar(share)}", worst])
    return f"{head}<p class='soft'>Each failed example counts once, at the first reason that fits.</p>" + table(
        ["reason", "n", "of the failed", ""], rows
    )


def _buckets(title: str, groups: Sequence[tuple[str, Sequence[ExampleLine]]]) -> str:
    rows = []
    for name, chosen in groups:
        heat = [one.heatmap_iou for one in chosen if one.heatmap_iou is not None]
        lost = sum(one.iou < FAILED for one in chosen) / len(chosen)
        rows.append(
            [
                esc(name),
                f"{len(chosen):,}",
                percent(_mean([one.iou for one in chosen])),
                percent(_mean(heat)) if heat else "–",
                f"{percent(lost)} % {_bar(lost)}",
            ]
        )
    return table([title, "n", "gIoU", "heatmap gIoU", "failed"], rows) if rows else ""


def _histogram(lines: Sequence[ExampleLine]) -> str:
    """Numbers of examples by mask IoU."""
    counts = [0] * _BINS
    for one in lines:
        counts[min(_BINS - 1, int(one.iou * _BINS))] += 1
    top = max(counts)
    bars = []
    for index, count in enumerate(counts):
        height = 90 * count / top
        color = "f1" if (index + 0.5) / _BINS < FAILED else "f2"
        title = f"<title>IoU {index / _BINS:.2f} to {(index + 1) / _BINS:.2f}: {count:,}</title>"
        box = f'x="{index * 27 + 4}" y="{100 - height:.1f}" width="23" height="{height:.1f}"'
        bars.append(f'<rect {box} class="{color}">{title}</rect>')
    marks = "".join(
        f'<text x="{4 + share * 540:.0f}" y="115" text-anchor="{anchor}">{share:g}</text>'
        for share, anchor in ((0, "start"), (0.25, "middle"), (0.5, "middle"), (0.75, "middle"), (1, "end"))
    )
    svg = (
        f'<svg viewBox="0 0 548 120" role="img" aria-label="Distribution of the mask IoU">{"".join(bars)}{marks}</svg>'
    )
    caption = f"<figcaption>Examples by mask IoU; {top:,} in the highest bar.</figcaption>"
    return f'<figure style="max-width:36rem">{svg}{caption}</figure>'


def _bar(share: float) -> str:
    return f'<span class="bar b1" style="width:{5 * share:.2f}rem"></span>'


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
