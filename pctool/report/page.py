"""One HTML page with everything in it: tables, figures, samples, configurations. It loads nothing from anywhere."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Mapping, Sequence
from html import escape

from pctool.report.rows import Row, higher_is_better
from pctool.report.runs import Run
from pctool.report.tables import ABOUT, DEPARTING, TITLES, heading, lines, notes, tables_of, title_of

# The policy makes a browser refuse whatever a run's own texts might ask it to load.
HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>pctool report</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a;
  background: #fff }
h1, h2, h3 { line-height: 1.25 } h2 { margin-top: 2.5rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #ddd; vertical-align: top }
th { border-bottom: 2px solid #333 } th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left }
tr.paper td { color: #595959; font-style: italic }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0 }
img.samples { image-rendering: pixelated; min-width: 16rem }
pre { background: #f5f5f5; padding: .7rem; overflow-x: auto; font-size: 13px }
.warning { border-left: 4px solid #D55E00; padding-left: .8rem }
</style>
</head>
<body>
"""
CAPTIONS = {
    "condition": "Condition numbers of D's effective weights over the steps (the paper's Fig. 2).",
    "smallest": "Smallest singular value of any layer of D, before and after the polynomial (the paper's Fig. 1).",
    "scores": "Scores over the steps",
    "losses": "Losses of D and G.",
}


def html(
    rows: Sequence[Row],
    figures: Mapping[str, bytes],
    spectra: Mapping[Run, Mapping[str, bytes]],
    remarks: Sequence[str],
    about: str,
) -> str:
    """The page. `figures` are PNG files by name, `spectra` those of each run by caption.

    `remarks` are warnings to be read first, `about` says what was chosen.
    """
    parts = [HEAD, "<h1>Report</h1>", f"<p>{escape(about)}</p>"]
    parts += [f'<p class="warning">{escape(remark)}</p>' for remark in remarks]
    for number, found in tables_of(rows).items():
        parts += [f"<h2>{TITLES[number]}</h2>", '<div class="wide">', _table(found), "</div>"]
    parts.append(f"<p>{ABOUT}</p>")
    if notes(rows):
        parts += [f"<p>{DEPARTING}</p>", "<ul>"]
        parts += [f"<li>{escape(note)}</li>" for note in notes(rows)] + ["</ul>"]
    parts.append("<h2>Over the steps</h2>")
    for name, caption in CAPTIONS.items():
        if f"{name}.png" in figures:
            parts.append(_captioned(figures[f"{name}.png"], caption + (_directions(rows) if name == "scores" else "")))
    parts.append("<h2>Runs</h2>")
    parts += [_run(row, run, spectra.get(run, {})) for row in rows for run in row.runs]
    return "\n".join([*parts, "</body>", "</html>", ""])


def _directions(rows: Sequence[Row]) -> str:
    """Of each score whether lower or higher is better."""
    metrics = dict.fromkeys(row.metric for row in rows if row.metric)
    found = [f"{title_of(name)}: {'higher' if higher_is_better(name) else 'lower'} is better" for name in metrics]
    return f" ({'; '.join(found)})."


def _table(rows: Sequence[Row]) -> str:
    text = ["<table>", "<tr>" + "".join(f"<th>{escape(name)}</th>" for name in heading(rows)) + "</tr>"]
    for cells in lines(rows):
        style = ' class="paper"' if cells[1] == "paper" and not cells[0] else ""
        text.append(f"<tr{style}>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    return "\n".join([*text, "</table>"])


def _run(row: Row, run: Run, spectra: Mapping[str, bytes]) -> str:
    """Samples, spectra, what the last evaluation said, configuration, versions and command of one run."""
    text = [f"<h3>{escape(run.path.name)}</h3>"]
    text.append(
        f"<p>{escape(row.label)}, seed {escape(str(run.config.get('seed')))}: {run.ended}, step {run.step:,}.</p>"
    )
    if run.samples:
        text.append(_image(run.samples, f"Samples of {run.path.name}", "samples"))
    text += [_captioned(png, caption) for caption, png in spectra.items()]
    if run.metrics:
        text.append(_details("Newest scores and their protocol", json.dumps(run.metrics[-1], indent=2)))
    text.append(_details("Configuration", json.dumps(run.record.config, indent=2)))
    text.append(_details("Versions", json.dumps(run.record.versions, indent=2)))
    return "\n".join([*text, _details("Command", shlex.join(run.record.command))])


def _details(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary><pre>{escape(text)}</pre></details>"


def _captioned(png: bytes, caption: str) -> str:
    return f"<figure>{_image(png, caption)}<figcaption>{escape(caption)}</figcaption></figure>"


def _image(png: bytes, alt: str, style: str = "") -> str:
    data = base64.b64encode(png).decode("ascii")
    return f'<img class="{style}" alt="{escape(alt)}" src="data:image/png;base64,{data}">'
