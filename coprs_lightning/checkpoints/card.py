"""The model card of an exported folder: what the model is, how good, where from, and how to use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coprs_lightning.model import CoprsModel

_METRICS = {
    "giou": "gIoU",
    "ciou": "cIoU",
    "heatmap_giou": "gIoU of the heatmap",
    "heatmap_ciou": "cIoU of the heatmap",
    "format_rate": "completions in the format",
    "token_rate": "completions with a concentration token",
    "completion_length": "tokens a completion",
    "n": "examples",
}
_FRONT = """\
---
library_name: coprs_lightning
pipeline_tag: image-segmentation
tags:
- reasoning-segmentation
- referring-segmentation
---
"""
_LICENCE = """\
Not stated. Whoever publishes this folder states it, as `license:` in the lines at the top of this file. The licences of
the models that the weights were trained from (above) and of the training data go on applying.
"""


def model_card(
    model: CoprsModel,
    *,
    name: str,
    configured: Mapping[str, Any],
    metrics: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> str:
    """The text of ``README.md``.

    Args:
        model: the exported model.
        name: folder or hub id to show in the examples.
        configured: specs of the parts by slot as the run was configured.
        metrics: see :func:`~coprs_lightning.checkpoints.records.run_metrics`.
        provenance: see :func:`~coprs_lightning.checkpoints.records.run_provenance`.
    """
    sections = [
        ("", _intro(name)),
        ("Use", _use(name, model.image_size)),
        ("Parts", _parts(model, configured)),
        ("Results", _results(metrics, provenance)),
        ("Provenance", _provenance(provenance)),
        ("Licence", _LICENCE),
    ]
    body = "\n".join(f"## {title}\n\n{text}" if title else text for title, text in sections)
    return f"{_FRONT}\n{body}"


def _intro(name: str) -> str:
    return (
        f"# {name}\n\n"
        "Reasoning segmentation: the model thinks about a question to an image in words, ends with one concentration "
        "token,\nand that token's hidden state is turned into a heatmap over the image, from which a mask is decoded "
        "(CoPRS).\n"
    )


def _use(name: str, image_size: int) -> str:
    return (
        "```python\n"
        "from coprs_lightning.model import CoprsModel\n\n"
        f'model = CoprsModel.from_pretrained("{name}")\n'
        'answer = model.segment("photo.jpg", "what is there to sit on?")\n'
        "print(answer.thought, answer.score)  # answer.mask: (H, W) bool, answer.heatmap: (H, W) probabilities\n"
        "```\n\n"
        "```sh\n"
        f'coprs segment --checkpoint {name} --image photo.jpg --question "what is there to sit on?" --output out\n'
        "```\n\n"
        f"Images of any size are brought to {image_size} × {image_size} pixels; masks come back at the image's own "
        "size.\n"
    )


def _parts(model: CoprsModel, configured: Mapping[str, Any]) -> str:
    rows = []
    for slot, part in model.components().items():
        options = (configured.get(slot) or {}).get("init_args") or {}
        trained_from = options.get("pretrained") or ("" if options.get("random_weights") else options.get("model"))
        trained_from = options.get("model_name") if trained_from is True else trained_from
        count = sum(parameter.numel() for parameter in part.parameters())
        started = f"`{_without_folder(str(trained_from))}`" if trained_from else "random weights"
        rows.append((slot, f"`{type(part).__name__}`", f"{count:,}".replace(",", " "), started if count else ""))
    return _table(("slot", "class", "parameters", "started from"), rows)


def _without_folder(source: str) -> str:
    """A hub id as it is, of a path its last name: folders are nobody's business."""
    return Path(source).name if source.startswith(("/", ".", "~")) or len(Path(source).parts) > 2 else source


def _results(metrics: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    if not metrics:
        return "None: the run has written no results.\n"
    step = (provenance.get("checkpoint") or {}).get("global_step")
    texts = []
    for file, content in metrics.items():
        rows = [(label, _number(content[key])) for key, label in _METRICS.items() if content.get(key) is not None]
        rows += [
            (f"gIoU of {kind!r} questions", _number(value)) for kind, value in (content.get("by_kind") or {}).items()
        ]
        texts.append(_measured(file, content, step) + _table(("metric", "value"), rows))
    return "\n".join(texts)


def _measured(file: str, content: Mapping[str, Any], step: Any) -> str:
    """Which weights a file's figures are of, as far as the run has written it down."""
    if content.get("stage") != "fit":
        return f"`{file}`, by `coprs {content.get('stage')}` (of the run's best weights unless others were named):\n\n"
    measured = content.get("global_step")
    text = f"`{file}`, the last validation of the training, at step {measured}:\n\n"
    if step is None or step == measured:
        return text
    known = content.get("monitor") and content.get("best_score") is not None
    best = f" The run's best {content['monitor']} was {_number(content['best_score'])}." if known else ""
    return f"{text}These are not the figures of the exported weights, which are of step {step}.{best}\n\n"


def _provenance(provenance: Mapping[str, Any]) -> str:
    git, seed = provenance.get("git"), provenance.get("seed")
    checkpoint = provenance.get("checkpoint") or {}
    versions = ", ".join(f"{name} {value}" for name, value in (provenance.get("versions") or {}).items() if value)
    data = [
        f"{split}: {found.get('name') or 'unnamed'} (sha256 of its index {str(found.get('sha256'))[:12]})"
        for split, listed in (provenance.get("data") or {}).items()
        for found in listed
    ]
    changed = " with changed files" if git and git.get("dirty") else ""
    rows = [
        ("checkpoint", f"{checkpoint.get('file')}, step {checkpoint.get('global_step')}" if checkpoint else ""),
        ("code", f"commit {git['commit']}{changed}" if git else ""),
        ("versions", versions),
        ("seed", "" if seed is None else str(seed)),
        ("data", "; ".join(data)),
        ("trained", f"{provenance.get('start')} to {provenance.get('end')}" if provenance.get("start") else ""),
    ]
    known = [row for row in rows if row[1]]
    table = _table(("", ""), known) if known else "Unknown: the run has written no provenance.json.\n"
    return f"{table}\nObjective, optimizer and versions in full are in `provenance.json`.\n"


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)
