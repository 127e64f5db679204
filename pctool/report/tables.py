"""Tables 1 and 2 as Markdown, CSV and LaTeX, each row with the paper's beneath or beside it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from pctool.report.paper import PaperRow
from pctool.report.rows import Row, Value
from pctool.spectrum.store import SUMMARY

TITLES = {
    1: "Table 1: low resolution",
    2: "Table 2: LSUN",
}
COLUMNS = {  # of a spectrum's summary; kappa is Sec. 1.2's, mod. kappa Sec. 3.4's
    "max_kappa": "kappa max",
    "second_max_kappa": "2nd",
    "mean_kappa": "mean",
    "max_modified_kappa": "mod. kappa max",
    "second_max_modified_kappa": "2nd",
    "mean_modified_kappa": "mean",
}
ABOUT = (
    "Condition numbers are of D's effective weights, without its last linear layer: kappa = sigma_max / sigma_min, "
    "mod. kappa = sigma_max over the mean of the lowest tenth. The paper's stand in the columns of mod. kappa, which "
    "is what its authors' code computes."
)

DEPARTING = "Rows that depart from the recipe of their experiment:"


def tables_of(rows: Sequence[Row]) -> dict[int, list[Row]]:
    """The rows by the paper's table they belong to; an empty table is left out."""
    return {number: found for number in TITLES if (found := [row for row in rows if row.table == number])}


def heading(rows: Sequence[Row]) -> list[str]:
    """The columns' names; the distance is named where all rows have the same."""
    metrics = {row.metric for row in rows if row.metric}
    score = title_of(metrics.pop()) if len(metrics) == 1 else "distance"
    return ["setting", "method", "seeds", "step", score, *COLUMNS.values()]


def title_of(metric: str) -> str:
    """`FID`, `FID (legacy)`, `FD-mobilenet_v2`: a distance over another network is named after it."""
    if metric.startswith("fid"):
        return "FID" + (f" ({metric[4:]})" if len(metric) > 3 else "")
    return metric.upper()[:2] + "-" + metric[3:] if metric[2:3] == "_" else metric


def cells(row: Row, named: bool = False, short: bool = False) -> list[str]:
    """A row's texts; `named` adds the distance's name to it, `short` leaves out the kappas' deviations."""
    score = value(row.score)
    if named and row.score and row.metric:
        score = f"{score} ({title_of(row.metric)})"
    counted = len(row.runs) - row.diverged
    if row.score and row.score.n < counted:
        score = f"{score} [{row.score.n} of {counted}]"
    numbers = [value(row.kappas.get(name), spread=not short) for name in SUMMARY]
    return [row.setting, row.method, seeds(row), " ".join(f"{step}" for step in row.steps) or "-", score, *numbers]


def paper_cells(paper: PaperRow) -> list[str]:
    """The paper's row of the same experiment."""
    kappas = [f"{number:.2f}" for number in (paper.max_kappa, paper.second_max_kappa, paper.mean_kappa)]
    return ["", "paper", "", "", f"FID {paper.fid:.2f}", "", "", "", *kappas]


def seeds(row: Row) -> str:
    """How many runs stand behind a row, and how many of them do not count or are not done."""
    apart = [f"{row.diverged} diverged"] if row.diverged else []
    apart += [f"{row.unfinished} unfinished"] if row.unfinished else []
    return f"{len(row.runs)}" + (f" ({', '.join(apart)})" if apart else "")


def value(number: Value | None, *, spread: bool = True) -> str:
    """`12.06`, over several seeds `12.06 ± 0.31`, and `-` for nothing. Below 1 three digits: `0.00410 ± 0.00032`."""
    if number is None:
        return "-"
    size = abs(number.mean)
    digits = ".1e" if size >= 1e5 else f".{min(6, 2 - math.floor(math.log10(size)))}f" if 0 < size < 1 else ".2f"
    spread = spread and number.std is not None and math.isfinite(number.std)
    return f"{number.mean:{digits}}" + (f" ± {number.std:{digits}}" if spread else "")


def lines(rows: Sequence[Row], short: bool = False) -> list[list[str]]:
    """Every line of one table below its heading, the paper's after the row it belongs to; `short` as in `cells`."""
    named = len({row.metric for row in rows if row.metric}) > 1
    found = []
    for row in rows:
        found.append(cells(row, named, short))
        found += [paper_cells(row.paper)] if row.paper else []
    return found


def plain(rows: Sequence[Row]) -> list[str]:
    """The lines of one table in 80 columns: above each row's numbers its method, seeds and step."""
    texts = lines(rows, short=True)
    top = ["", "kappa", "", "", "mod. kappa", "", ""]
    names = [heading(rows)[4], *("max", "2nd", "mean") * 2]
    widths = [max(map(len, column)) for column in zip(top, names, *(cells[4:] for cells in texts), strict=True)]

    def numbers(cells: Sequence[str]) -> str:
        return "  ".join(["", *(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))]).rstrip()

    found = [numbers(top), numbers(names)]
    for _, method, seeds, step, *cells in texts:
        found += [f"{method}: seeds {seeds}, step {step}" if seeds else method, numbers(cells)]
    return found


def notes(rows: Sequence[Row]) -> list[str]:
    """What a reader has to know beside the numbers: which rows do not follow the recipe."""
    return [f"{row.label}: {row.departs}" for row in rows if row.departs]


def markdown(rows: Sequence[Row], remarks: Sequence[str]) -> str:
    """Both tables with their notes."""
    text = ["# Report", ""]
    for number, found in tables_of(rows).items():
        names = heading(found)
        text += [f"## {TITLES[number]}", "", _line(names), _line(["---"] * len(names))]
        text += [_line(cells) for cells in lines(found)] + [""]
    text += [ABOUT, ""]
    if departing := notes(rows):
        text += [DEPARTING, "", *(f"- {note}" for note in departing), ""]
    return "\n".join([*text, *(f"{remark}\n" for remark in remarks)])


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def csv_text(rows: Sequence[Row]) -> str:
    """A line a row, with full digits; the paper's numbers and the departures in columns of their own."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    spread = [f"{name}{end}" for name in ("score", *SUMMARY) for end in ("", "_std")]
    counts = ["table", "setting", "method", "runs", "diverged", "unfinished", "steps", "metric"]
    paper = ["paper_fid", "paper_max_kappa", "paper_second_max_kappa", "paper_mean_kappa"]
    writer.writerow([*counts, *spread, *paper, "departs"])
    for row in rows:
        numbers = [row.score, *(row.kappas.get(name) for name in SUMMARY)]
        pairs = [part for number in numbers for part in ((number.mean, number.std) if number else (None, None))]
        printed = vars(row.paper).values() if row.paper else [None] * len(paper)
        about = [row.table, row.setting, row.method, len(row.runs), row.diverged, row.unfinished]
        writer.writerow([*about, " ".join(map(str, row.steps)), row.metric, *pairs, *printed, row.departs])
    return buffer.getvalue()


def latex(rows: Sequence[Row]) -> str:
    """A tabular a table, without any package."""
    text = []
    for number, found in tables_of(rows).items():
        names = heading(found)
        text += [f"% {TITLES[number]}. {ABOUT}", rf"\begin{{tabular}}{{ll{'r' * (len(names) - 2)}}}", r"\hline"]
        text += [_latex_line(names), r"\hline", *(_latex_line(cells) for cells in lines(found)), r"\hline"]
        text += [r"\end{tabular}", ""]
    return "\n".join(text)


ESCAPES = str.maketrans({**{sign: f"\\{sign}" for sign in "&%$#_{}"}, "~": r"\~{}", "^": r"\^{}", "\\": "/"})


def _latex_line(texts: Sequence[str]) -> str:
    return " & ".join(text.translate(ESCAPES).replace("±", r"$\pm$") for text in texts) + r" \\"
