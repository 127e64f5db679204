"""From run folders to rows, tables, figures and one page."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pctool import files
from pctool.errors import InputError
from pctool.report import page, rows, tables
from pctool.report.figures import overlays, spectra_of
from pctool.report.paper import TABLE_1, TABLE_2, published
from pctool.report.rows import departures, kappas_at, metric_of, protocols, rows_of
from pctool.report.runs import find_runs, read_run
from pctool.spectrum.live import SpectrumWriter
from tests.spectrum.samples import row as spectrum_row

from .folders import PROTOCOL, make_run


def test_seeds_make_one_row_with_mean_and_deviation(tmp_path: Path) -> None:
    """NumPy's mean and sample standard deviation, of the score and of every condition number at its step."""
    scores = (20.0, 23.0, 21.5)
    runs = [read_run(make_run(tmp_path / f"{i}", scores={10: 40.0, 20: s}, seed=i)) for i, s in enumerate(scores)]
    (made,) = rows_of(runs)
    assert made.score is not None
    assert made.score.mean == pytest.approx(np.mean(scores))
    assert made.score.std == pytest.approx(np.std(scores, ddof=1))
    assert made.kappas["max_kappa"].mean == pytest.approx(spectrum_row(20).summary["max_kappa"])
    assert made.kappas["max_kappa"].std == pytest.approx(0.0, abs=1e-12)
    assert (made.setting, made.method, made.steps) == ("CIFAR-10 ResNet (1,1)", "APC", (20,))
    assert tables.cells(made)[2:5] == ["3", "20", "21.50 ± 1.50"]


def test_the_best_evaluation_brings_the_condition_numbers_of_its_step(tmp_path: Path) -> None:
    """final is the last step's, best the smallest distance's; a spectrum row after it does not count."""
    run = read_run(make_run(tmp_path / "r", scores={12: 30.0, 20: 31.0}))
    final, best = rows_of([run])[0], rows_of([run], select="best")[0]
    assert final.score is not None
    assert best.score is not None
    assert (final.score.mean, best.score.mean) == (31.0, 30.0)
    assert best.kappas["mean_kappa"].mean == spectrum_row(10).summary["mean_kappa"]
    assert final.kappas["mean_kappa"].mean == spectrum_row(20).summary["mean_kappa"]
    assert best.score.std is None


def test_of_one_step_evaluated_twice_the_newer_counts(tmp_path: Path) -> None:
    """`pctool eval RUN` appends."""
    path = make_run(tmp_path / "r", scores={20: 31.0})
    with (path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 20, "scores": {"fid": 29.0}, "protocol": PROTOCOL}) + "\n")
    (made,) = rows_of([read_run(path)])
    assert made.score is not None
    assert made.score.mean == 29.0


def test_diverged_runs_are_counted_and_left_out(tmp_path: Path) -> None:
    """Exit code 3; a run that is not done is counted too, and its values are in."""
    runs = [
        read_run(make_run(tmp_path / "a", scores={20: 20.0}, seed=0)),
        read_run(make_run(tmp_path / "b", scores={20: 400.0}, seed=1, code=3)),
        read_run(make_run(tmp_path / "c", scores={20: 22.0}, seed=2, code=75)),
        read_run(make_run(tmp_path / "d", scores={20: 24.0}, seed=3, code=None)),
    ]
    (made,) = rows_of(runs)
    assert made.score is not None
    assert made.score.mean == pytest.approx(22.0)
    assert tables.seeds(made) == "4 (1 diverged, 2 unfinished)"


def test_rows_stand_in_the_papers_order_each_above_the_papers(tmp_path: Path) -> None:
    """SN, FPC, APC whatever the order of the folders; the paper's row beneath, in the columns of modified kappa."""
    flags: list[dict[str, Any]] = [{"method": "apc"}, {"method": "fpc", "degree": 7}, {"method": "sn"}]
    runs = [read_run(make_run(tmp_path / f"{i}", scores={20: 1.0}, **each)) for i, each in enumerate(flags)]
    rows = rows_of(runs)
    assert [row.method for row in rows] == ["SN-GAN", "FPC, deg-7", "APC"]
    lines = tables.lines(rows)
    assert [line[1] for line in lines] == ["SN-GAN", "paper", "FPC, deg-7", "paper", "APC", "paper"]
    assert lines[1] == ["", "paper", "", "", "FID 77.82", "", "", "", "113.55", "19.46", "17.77"]
    assert {len(line) for line in lines} == {len(tables.heading(rows))}


def test_the_papers_rows_are_found_by_what_names_the_experiment() -> None:
    """Data set, resolution, architecture, one D step, method and degree; nothing else is near enough."""
    named = {"dataset": "cifar10", "resolution": 32, "arch": "resnet", "d_iters": 1, "method": "fpc", "degree": 3}
    assert published(named) == TABLE_1[("cifar10", 32)]["fpc3"]
    lsun = {"dataset": "lsun-tower", "resolution": 256, "arch": "dcgan", "d_iters": 1, "method": "svd", "degree": 7}
    assert published(lsun) == TABLE_2[("lsun-tower", 256)]["svd"]
    for change in ({"degree": 5}, {"d_iters": 5}, {"arch": "cnn"}, {"dataset": "x"}, {"poly": [1.0]}):
        assert published({**named, **change}) is None


def test_the_literal_tables_have_the_papers_sums() -> None:
    """FIDs of both tables and Table 1's largest kappas, added by hand from the paper: no digit changes unseen."""
    assert sum(row.fid for rows in TABLE_1.values() for row in rows.values()) == pytest.approx(387.00)
    assert sum(row.max_kappa for rows in TABLE_1.values() for row in rows.values()) == pytest.approx(408.29)
    assert sum(row.fid for rows in TABLE_2.values() for row in rows.values()) == pytest.approx(797.10)


def test_what_departs_from_the_recipe_is_said(tmp_path: Path) -> None:
    """Steps and widths; nothing for a run that follows it."""
    run = read_run(make_run(tmp_path / "r", width_d=16))
    assert departures(run.config) == "width_d 16 (recipe 128), steps 20 (recipe 200000)"
    assert "width_d 16" in tables.markdown(rows_of([run]), [])
    assert departures({**run.config, "width_d": 128, "steps": 200_000}) == ""
    (tmp_path / "faces").mkdir()
    own = {**run.config, "dataset": str(tmp_path / "faces"), "resolution": 48}  # of any folder
    assert "steps 20 (recipe 200000)" in departures(own)
    assert "dataset" not in departures(own)


def test_rows_that_would_read_the_same_say_what_differs(tmp_path: Path) -> None:
    """Two experiments of one method: by the settings that differ, and no others."""
    runs = [read_run(make_run(tmp_path / f"{n}", lr_d=n)) for n in (0.001, 0.002)]
    assert [row.method for row in rows_of(runs)] == ["APC (lr_d 0.001)", "APC (lr_d 0.002)"]


def test_the_distance_is_fid_or_named_after_its_network(tmp_path: Path) -> None:
    """FID where there is one; another by its name; a wish that no run fulfils is refused."""
    runs = [
        read_run(make_run(tmp_path / "a", scores={20: 9.0})),
        read_run(make_run(tmp_path / "b", scores={20: 3.0}, metric="fd_mobilenet_v2", seed=1)),
    ]
    assert metric_of(runs) == "fid"
    assert metric_of(runs[1:]) == "fd_mobilenet_v2"
    paper = read_run(make_run(tmp_path / "c", scores={20: 7.0}, metric="fid_legacy", seed=2))
    assert metric_of([runs[1], paper]) == "fid_legacy"
    assert "FD-mobilenet_v2" in tables.heading(rows_of(runs, "fd_mobilenet_v2"))
    with pytest.raises(InputError, match="there are: fid, kid, fd_mobilenet_v2"):
        rows_of(runs, "fd_x")


def test_different_protocols_are_told(tmp_path: Path) -> None:
    """One a distinct protocol."""
    runs = [
        read_run(make_run(tmp_path / "a", scores={20: 9.0})),
        read_run(make_run(tmp_path / "b", scores={20: 9.0}, method="sn", protocol={**PROTOCOL, "n_fake": 50_000})),
    ]
    found = protocols(rows_of(runs), "final")
    assert sorted(one["n_fake"] for one in found) == [10, 50_000]
    assert len(protocols(rows_of(runs[:1]), "final")) == 1


def test_csv_has_full_digits_and_latex_compiles_as_far_as_its_signs(tmp_path: Path) -> None:
    """CSV reads back to the numbers; LaTeX has as many cells a line, and no bare special sign."""
    runs = [read_run(make_run(tmp_path / f"{i}", scores={20: 100 / 3 + i}, seed=i)) for i in range(2)]
    rows = rows_of(runs)
    (line,) = csv.DictReader(io.StringIO(tables.csv_text(rows)))
    assert float(line["score"]) == rows[0].score.mean  # type: ignore[union-attr]
    assert float(line["max_kappa"]) == rows[0].kappas["max_kappa"].mean
    assert (line["paper_fid"], line["runs"]) == ("19.53", "2")
    text = tables.latex(rows)
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.count(" & ") for line in body} == {10}
    assert not re.search(r"(?<!\\)[_#%&](?! )", "".join(body))


class _Tags(HTMLParser):
    """Checks that tags close in order, and gathers what they refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_holds_everything_and_loads_nothing(tmp_path: Path) -> None:
    """Well-formed; every picture is inside, the newest samples among them; a run's own texts cannot add tags."""
    path = make_run(tmp_path / "<script>alert(1)<", scores={20: 19.0})
    rows = rows_of([read_run(path)])
    figures = overlays(rows)
    spectra = {run: spectra_of(run) for run in rows[0].runs}
    text = page.html(rows, figures, spectra, ["beware <of> this"], "about")
    tags = _Tags()
    tags.feed(text)
    assert not tags.open
    assert all(source.startswith("data:image/png;base64,") for source in tags.sources)
    inside = [base64.b64decode(source.partition(",")[2]) for source in tags.sources]
    assert (path / "samples" / "00000020.png").read_bytes() in inside
    assert {figures[name] for name in figures if name.endswith("png")} <= set(inside)
    assert set(spectra[rows[0].runs[0]].values()) <= set(inside)
    assert len(spectra[rows[0].runs[0]]) == 2
    assert "<script>" not in text
    assert "beware <of> this" in tags.text
    assert '"width_d": 128' in tags.text
    assert "http" not in text.replace("http-equiv", "")


def test_figures_are_there_where_there_is_data(tmp_path: Path) -> None:
    """No evaluation, no scores; without a spectrum neither condition numbers nor smallest values."""
    path = make_run(tmp_path / "r")
    assert {name.partition(".")[0] for name in overlays(rows_of([read_run(path)]))} == {
        "condition",
        "smallest",
        "losses",
    }
    (path / "spectrum.h5").unlink()
    figures = overlays(rows_of([read_run(path)]))
    assert set(figures) == {"losses.png", "losses.svg"}
    assert overlays(rows_of([read_run(path)])) == figures
    assert spectra_of(read_run(path)) == {}


def test_runs_are_found_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By path and pattern; what is no run is named."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        make_run(Path(name))
    assert find_runs(["b", "?", "./a"]) == [Path("b"), Path("a")]
    (tmp_path / "empty").mkdir()
    for text in ("nowhere", "empty", "x*"):
        with pytest.raises(InputError, match=f"no run folder at {re.escape(text)}"):
            find_runs([text])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{}", "config.json is damaged"),
        ("config.json", '{"config": NaN}', "config.json is damaged"),
        ("config.json", {"resolution": "abc"}, "config.json is damaged"),
        ("config.json", {"resolution": {"a": 1}}, "config.json is damaged"),
        ("config.json", {"dataset": ["x"]}, "config.json is damaged"),
        ("config.json", {"d_iters": None}, "config.json is damaged"),
        ("spectrum.h5", "x", "spectrum.h5 is damaged"),
    ],
)
def test_damaged_files_of_a_run_are_one_line(tmp_path: Path, name: str, content: Any, message: str) -> None:
    """The file is named; settings of another type count as damage."""
    path = make_run(tmp_path / "r", scores={20: 1.0})
    if isinstance(content, dict):
        record = json.loads((path / name).read_text())
        content = json.dumps({**record, "config": {**record["config"], **content}})
    (path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_run(path)


@pytest.mark.parametrize(
    "damage", ["{", '{"step": NaN}', "[" * 100_000, '{"step": 1' + "0" * 99 + "}", "\0" * 99, '"x"']
)
def test_a_line_that_a_crash_damaged_is_left_out(tmp_path: Path, damage: str) -> None:
    """The last one, or one that others were appended to since; not one whose text has a line separator."""
    path = make_run(tmp_path / "r", scores={10: 2.0, 20: 1.0})
    whole = read_run(path).metrics
    files.append_line(path / "metrics.jsonl", json.dumps({"step": 20, "skipped": "a\u2028b"}, ensure_ascii=False))
    with (path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(damage)
    assert [entry["step"] for entry in read_run(path).metrics] == [10, 20, 20]
    files.append_line(path / "metrics.jsonl", json.dumps(whole[-1]))
    assert read_run(path).metrics[:2] == whole
    assert [entry["step"] for entry in read_run(path).metrics] == [10, 20, 20, 20]


def test_a_run_without_a_spectrum_has_no_condition_numbers(tmp_path: Path) -> None:
    """Dashes in the table, and no failure."""
    path = make_run(tmp_path / "r", scores={20: 1.0})
    (path / "spectrum.h5").unlink()
    run = read_run(path)
    assert kappas_at(run, 20) is None
    assert kappas_at(run, None) is None
    assert tables.cells(rows_of([run])[0])[5:] == ["-"] * 6


def test_numbers_too_large_to_draw_are_left_out(tmp_path: Path) -> None:
    """A loss and a score of 401 digits: gaps, as where they are no numbers."""
    path = make_run(tmp_path / "r", scores={20: 1.0})
    with (path / "stats.jsonl").open("a") as file:
        file.write(f'{{"step": 30, "loss_d": {10**400}}}\n')
    with (path / "metrics.jsonl").open("a") as file:
        file.write(f'{{"step": 30, "scores": {{"fid": {10**400}}}}}\n')
    rows = rows_of([read_run(path)])
    assert rows[0].score is not None
    assert rows[0].score.mean == 1.0
    assert "losses.png" in overlays(rows)


def test_an_evaluation_before_the_first_recorded_row_has_no_condition_numbers(tmp_path: Path) -> None:
    """Those of a later step would not be its own."""
    path = make_run(tmp_path / "r", scores={5: 1.0})
    (path / "spectrum.h5").unlink()
    SpectrumWriter(path / "spectrum.h5", "x", "D").append(spectrum_row(10))
    run = read_run(path)
    assert kappas_at(run, 5) is None
    assert kappas_at(run, 10) == spectrum_row(10).summary


@pytest.mark.parametrize(
    ("metric", "best"),
    [("fid", 3.0), ("kid", 3.0), ("inception_score", 7.0), ("is_resnet18", 7.0), ("precision", 7.0), ("recall", 7.0)],
)
def test_the_best_of_a_score_is_the_largest(tmp_path: Path, metric: str, best: float) -> None:
    """Of a distance the smallest; the page says which is better."""
    run = read_run(make_run(tmp_path / "r", scores={10: 3.0, 20: 7.0}, metric="fid" if metric == "kid" else metric))
    entries = [{**entry, "scores": {metric: value}} for entry, value in zip(run.metrics, (3.0, 7.0), strict=True)]
    run = dataclasses.replace(run, metrics=tuple(entries))
    rows = rows_of([run], metric, "best")
    assert rows[0].score is not None
    assert rows[0].score.mean == best
    text = page.html(rows, {"scores.png": b""}, {}, [], "")
    assert ("higher is better" in text, "lower is better" in text) == (best == 7.0, best == 3.0)


def test_a_run_without_logs_has_come_as_far_as_it_says(tmp_path: Path) -> None:
    """exit.json's step and the newest checkpoint count where nothing was logged."""
    path = make_run(tmp_path / "r")
    for name in ("stats.jsonl", "spectrum.h5"):
        (path / name).unlink()
    run = read_run(path)
    assert (run.ended, run.step) == ("finished", 20)
    (path / "exit.json").unlink()
    (path / "checkpoints").mkdir()
    for step in (8, 16):
        (path / "checkpoints" / f"{step:08d}.pt").touch()
    run = read_run(path)
    assert (run.ended, run.step) == ("unfinished", 16)


def test_small_scores_keep_their_digits() -> None:
    """Three significant ones below 1, the deviation as many decimals as its mean."""
    values = [tables.Value(0.0041, None, 1), tables.Value(0.0041, 0.00032, 3), tables.Value(-0.5, None, 1)]
    assert [tables.value(each) for each in values] == ["0.00410", "0.00410 ± 0.00032", "-0.500"]
    assert tables.value(tables.Value(3e6, 2e5, 2)) == "3.0e+06 ± 2.0e+05"
    assert tables.value(tables.Value(0.0, None, 1)) == "0.00"


def test_names_of_any_signs_are_drawn(tmp_path: Path) -> None:
    """A data set called `_a$x_{$b`: no mathematics, and its line has its name in the legend."""
    rows = rows_of([read_run(make_run(tmp_path / "r"))])
    named = [dataclasses.replace(rows[0], setting="_a$x_{$b")]
    assert b"_a$x_{$b, APC" in overlays(named)["losses.svg"]


def test_over_many_decades_only_powers_of_ten_have_numbers(tmp_path: Path) -> None:
    """2 and 5 between them would overlap; over few they are there."""
    run = read_run(make_run(tmp_path / "r"))
    assert run.spectrum is not None
    shown = []
    for largest in (30.0, 3e6):
        summary = {name: np.geomspace(2.0, largest, 3) for name in run.spectrum.summary}
        steep = dataclasses.replace(run, spectrum=dataclasses.replace(run.spectrum, summary=summary))
        svg = overlays([dataclasses.replace(rows_of([run])[0], runs=(steep,))])["condition.svg"]
        shown.append({text for text in re.findall(r">([0-9e+]+)</text>", svg.decode())})
    assert {"10", "20"} <= shown[0]
    assert {"1000", "100000"} <= shown[1]
    assert not {"50", "200", "2000"} & shown[1]  # 20 is a step


def test_a_quick_look_replaces_no_score(tmp_path: Path) -> None:
    """Of the evaluations of a run's last step the one of most samples counts, of as many the later one."""
    run = read_run(make_run(tmp_path / "r", scores={10: 3.0}, metric="fid"))
    (entry,) = run.metrics
    scored = [(10_000, 5.0), (10_000, 4.0), (20, 9.0)]
    entries = tuple({**entry, "scores": {"fid": fid}, "protocol": {"n_fake": n}} for n, fid in scored)
    rows = rows_of([dataclasses.replace(run, metrics=entries)], "fid", "final")
    assert rows[0].score is not None
    assert rows[0].score.mean == 4.0


def test_the_spread_of_a_score_is_no_score() -> None:
    """Neither its deviation nor its error can be tabulated."""
    scores = {"kid": 1.0, "kid_std": 0.1, "kid_se": 0.01, "fid": 2.0}
    assert rows._scores({"scores": scores}) == {"kid": 1.0, "fid": 2.0}
