"""The head of the page, the benchmark table and the smoke check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coprs_lightning.report.html import code, details, esc, note, number, percent, table
from coprs_lightning.report.run_files import RunFiles, as_dict, as_list, as_number

_SCORES = {
    "giou": "gIoU",
    "ciou": "cIoU",
    "precision@0.5": "P@0.5",
    "precision@0.7": "P@0.7",
    "precision@0.9": "P@0.9",
    "heatmap_giou": "heatmap gIoU",
    "well_formed": "format",
    "format_rate": "format",
    "n_acc": "N-acc",
    "t_acc": "T-acc",
    "none_accuracy": "N-acc",
}


def tiles(run: RunFiles, further: Sequence[tuple[str, str]] = ()) -> str:
    """The few numbers that everybody asks for first.

    Args:
        run: the run.
        further: more of them, names and values as HTML, after the scores.
    """
    facts = [*_headline(run), *further]
    record = run.provenance
    parameters = as_dict(as_dict(record.get("parameters")).get("total"))
    fit = run.results.get("results.json", {})
    seconds = as_number(fit.get("fit_seconds"))
    for name, value in (
        ("training steps", number(fit.get("global_step"))),
        ("training time", "–" if seconds is None else _duration(seconds)),
        ("parameters", _short(parameters.get("total"))),
        ("seed", esc("–" if record.get("seed") is None else record["seed"])),
        ("status", esc(record.get("status", "–"))),
    ):
        if value != "–":
            facts.append((name, value))
    shown = "".join(f'<div class="tile"><b>{value}</b><span>{esc(name)}</span></div>' for name, value in facts)
    return f'<div class="tiles">{shown}</div>'


def _headline(run: RunFiles) -> list[tuple[str, str]]:
    for split in reversed(_splits(run)):
        units = split["units"]
        unit = "target" if "target" in units else next(iter(units), "")
        scores = as_dict(as_dict(units.get(unit)).get("scores"))
        if "giou" in scores:
            name = str(split.get("name", ""))
            shown = ("giou", "ciou", "heatmap_giou")
            found = [(f"{_SCORES[key]}, {name}", percent(_value(scores.get(key)))) for key in shown]
            return [*found, (f"examples, {name}", number(units[unit].get("n")))]
    for file in ("results.json", *run.results):
        results = run.results.get(file, {})
        if "giou" in results:
            found = [
                (f"{_SCORES[key]}, {_stage(results)}", percent(results.get(key)))
                for key in ("giou", "ciou", "heatmap_giou")
            ]
            return [*found, (f"examples, {_stage(results)}", number(results.get("n")))]
    return []


def _stage(results: dict[str, Any]) -> str:
    return "test" if results.get("stage") == "test" else "validation"


def _splits(run: RunFiles) -> list[dict[str, Any]]:
    found = as_dict(run.evaluation).get("splits")
    return [one for one in as_list(found) if isinstance(one, dict) and isinstance(one.get("units"), dict)]


def _value(score: Any) -> Any:
    return score.get("value") if isinstance(score, dict) else None


def benchmark(run: RunFiles) -> str:
    """Scores of every split, from the evaluation where there is one, else from what the run wrote itself."""
    parts = []
    if splits := _splits(run):
        parts += [_evaluated(splits), _published(splits), _how(run.evaluation or {})]
    else:
        parts.append(
            note(
                "There is no evaluation of whole splits with intervals and single examples yet. Make it with "
                f"{code(f'coprs evaluate --checkpoint {run.folder}')}, then this report again."
            )
        )
    if run.results:
        found = _written(run)
        parts.append(details("Numbers that the run wrote itself", found) if splits else found)
    return "".join(parts)


def _evaluated(splits: list[dict[str, Any]]) -> str:
    there = {
        name for split in splits for unit in split["units"].values() for name in as_dict(as_dict(unit).get("scores"))
    }
    shown = {name: title for name, title in _SCORES.items() if name in there}
    rows = []
    for split in splits:
        for unit, result in _different(split["units"]).items():
            cells = []
            for name in shown:
                score = as_dict(as_dict(result).get("scores")).get(name)
                cell = percent(_value(score))
                if isinstance(score, dict) and as_number(score.get("low")) is not None:
                    cell += f'<br><span class="soft">[{percent(score["low"])}, {percent(score["high"])}]</span>'
                cells.append(cell)
            differs = ' <span class="bad" title="another number of examples than the published split">≠</span>'
            n = number(as_dict(result).get("n")) + (differs if as_dict(result).get("differs") else "")
            rows.append([esc(split.get("name", "")), esc(unit), n, *cells])
    head = ["split", "unit", "n", *shown.values()]
    return "<p class='soft'>Percent, with 95 % bootstrap intervals.</p>" + table(head, rows, numeric_from=2)


def _different(units: dict[str, Any]) -> dict[str, Any]:
    """Units that are told in lines of their own: where every target has one expression, both are the same."""
    names = list(units)
    if len(names) == 2:
        first, second = (as_dict(units[name]) for name in names)
        if all(first.get(key) == second.get(key) for key in ("n", "scores")):
            return {" = ".join(names): first}
    return units


def _published(splits: list[dict[str, Any]]) -> str:
    rows = []
    for split in splits:
        for one in as_list(split.get("published")):
            if isinstance(one, dict):
                metric = str(one.get("metric", ""))
                rows.append(
                    [
                        esc(split.get("name", "")),
                        esc(one.get("model", "")),
                        esc(one.get("unit") or "?"),
                        esc(_SCORES.get(metric, metric)),
                        percent(one.get("value")),
                        esc(one.get("source", "")),
                    ]
                )
    if not rows:
        return ""
    head = ["split", "model", "unit", "score", "value", "read in"]
    return details("Published numbers of these splits", table(head, rows, numeric_from=9))


def _how(evaluation: dict[str, Any]) -> str:
    checkpoint, settings = as_dict(evaluation.get("checkpoint")), as_dict(evaluation.get("settings"))
    if not checkpoint:
        return ""
    digest = code(str(checkpoint.get("sha256", "?"))[:16])
    return (
        f"<p class='soft'>Checkpoint {code(checkpoint.get('file', '?'))} (sha256 {digest}…), "
        f"{esc(settings.get('decoding', 'greedy'))} decoding of at most {number(settings.get('max_new_tokens'))} "
        f"tokens, batches of {number(settings.get('batch_size'))}.</p>"
    )


def _written(run: RunFiles) -> str:
    there = {name for results in run.results.values() for name in results}
    shown = {name: title for name, title in _SCORES.items() if name in there}
    rows = [
        [
            code(file),
            esc(results.get("stage", "–")),
            number(results.get("n")),
            number(results.get("global_step")),
            *(percent(results.get(name)) for name in shown),
        ]
        for file, results in run.results.items()
        if any(name in results for name in shown)
    ]
    return table(["file", "after", "n", "step", *shown.values()], rows, numeric_from=2) if rows else ""


def smoke(run: RunFiles) -> str:
    """What the check at the start of the run found; nothing where there was none."""
    parts = []
    for look in run.smoke:
        where = f"{look.get('where', '?')}, step {look.get('step', '?')}"
        found = [one for one in as_list(look.get("findings")) if isinstance(one, dict)]
        if not found:
            parts.append(f'<p><span class="good">✓</span> {esc(where)}: nothing conspicuous.</p>')
        for one in found:
            head = f'<b class="bad">{esc(one.get("name", ""))}</b> <span class="soft">({esc(where)})</span>'
            text = f"{esc(one.get('evidence', ''))}. {esc(one.get('remedy', ''))}"
            parts.append(f'<div class="warn">{head}<br>{text}</div>')
    return "".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min" if minutes >= 10 else f"{minutes} min {rest:02d} s"


def _short(count: Any) -> str:
    """A large number in a few characters."""
    value = as_number(count)
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value is not None and value >= size:
            return f"{value / size:.3g} {unit}"
    return number(count)
