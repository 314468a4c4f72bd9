"""The page: head, contents, sections."""

from __future__ import annotations

from pathlib import Path

import coprs_lightning
from coprs_lightning.report.example_lines import read_examples
from coprs_lightning.report.html import esc
from coprs_lightning.report.run_files import EVALUATION, RunFiles
from coprs_lightning.report.section_correlation import correlations, headline
from coprs_lightning.report.section_curves import curves
from coprs_lightning.report.section_examples import panels
from coprs_lightning.report.section_failures import failures
from coprs_lightning.report.section_provenance import config, provenance
from coprs_lightning.report.section_summary import benchmark, smoke, tiles
from coprs_lightning.report.style import CSS

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""What a browser lets the page do: nothing but show itself, whatever a question or a completion holds."""


def render(run: RunFiles) -> str:
    """The page about a run; the same folder gives the same page.

    Args:
        run: what :func:`~coprs_lightning.report.run_files.read_run` found.

    Returns:
        HTML that needs nothing beside itself.
    """
    examples = read_examples(run.folder / EVALUATION / "examples.jsonl")
    sections = [
        ("benchmark", "Benchmark", benchmark(run)),
        ("smoke", "Smoke check", smoke(run)),
        ("curves", "Curves", curves(run)),
        ("correlation", "Correlation", correlations(run, examples)),
        ("examples", "Examples", panels(run, examples)),
        ("failures", "Failures", failures(run, examples)),
        ("config", "Config", config(run)),
        ("provenance", "Provenance", provenance(run)),
    ]
    sections = [section for section in sections if section[2]]
    links = "".join(f'<li><a href="#{key}">{esc(title)}</a></li>' for key, title, _ in sections)
    body = "".join(f'<section id="{key}"><h2>{esc(title)}</h2>{content}</section>' for key, title, content in sections)
    name = Path(run.folder).resolve().name
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f'<title>{esc(name)} – run report</title><link rel="icon" href="data:,"><style>{CSS}</style></head><body>'
        f'<header><h1>{esc(name)}</h1><p class="soft">Report of a run: {esc(run.folder)}</p></header>'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>'
        f"<main>{tiles(run, headline(examples))}{body}</main>"
        f"<footer>Made by <code>coprs report</code>, coprs_lightning {esc(coprs_lightning.__version__)}.</footer>"
        "</body></html>\n"
    )
