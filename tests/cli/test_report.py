"""`pctool report` from its arguments to its files and its answer."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pctool.cli.main import run
from tests.report.folders import PROTOCOL, make_run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two seeds of apc and one run of sn."""
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        make_run(Path(f"apc{seed}"), scores={10: 30.0, 20: 20.0 + seed}, seed=seed)
    make_run(Path("sn"), scores={20: 80.0}, method="sn")
    return tmp_path


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes seconds; one test looks at what it makes."""
    monkeypatch.setattr("pctool.report.figures.overlays", lambda rows: {"losses.png": b"png", "losses.svg": b"svg"})
    monkeypatch.setattr("pctool.report.figures.spectra_of", lambda run: {})


def test_tables_figures_and_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All files; the answer shows both methods beside the paper's values in 80 columns, and where they depart."""
    assert run(["report", "apc?", "sn"]) == 0
    names = {path.name for path in (folder / "report").iterdir()}
    pictures = {f"{name}.{end}" for name in ("condition", "smallest", "scores", "losses") for end in ("png", "svg")}
    assert names == {"report.md", "report.csv", "report.tex", "report.html"} | pictures
    out = capsys.readouterr().out
    assert out.index("SN-GAN") < out.index("APC")
    assert all(text in out for text in ("20.50", "FID 77.82", "FID 19.53", "report/report.html"))
    assert "- CIFAR-10 ResNet (1,1), APC: steps 20 (recipe 200000)" in out.splitlines()
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.usefixtures("no_pictures")
def test_the_same_again_and_another_content(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same bytes twice; other runs into the same folder need --force, and nothing is half-written."""
    assert run(["report", "apc?"]) == 0
    before = {path: path.read_bytes() for path in (folder / "report").iterdir()}
    assert run(["report", "apc?"]) == 0
    assert run(["report", "sn"]) == 2
    assert "exists with other content; add --force" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (folder / "report").iterdir()} == before
    assert run(["report", "sn", "--force"]) == 0


@pytest.mark.usefixtures("no_pictures")
def test_a_study_stands_for_its_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its folder is enough."""
    make_run(Path("study/runs/0000-sn-s0"), method="sn")
    make_run(Path("study/runs/0001-apc-s0"), method="apc")
    Path("study/study.json").write_text("{}")
    assert run(["report", "study", "--json"]) == 0
    runs = [name for row in json.loads(capsys.readouterr().out)["rows"] for name in row["runs"]]
    assert sorted(runs) == ["study/runs/0000-sn-s0", "study/runs/0001-apc-s0"]


@pytest.mark.usefixtures("no_pictures")
def test_json_is_one_strict_object(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows with their values, the paper's, and the files."""
    assert run(["report", "apc?", "sn", "--select", "best", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in answer["rows"]] == ["SN-GAN", "APC"]
    assert answer["rows"][1]["score"]["mean"] == 20.5
    assert answer["rows"][1]["paper"]["fid"] == 19.53
    assert "report/report.html" in answer["files"]


@pytest.mark.usefixtures("no_pictures")
def test_runs_without_a_score_are_named_with_what_to_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command that scores one, on stderr and in the files; a diverged run needs none."""
    make_run(Path("new run"), method="none")
    make_run(Path("failed"), method="svd", code=3)
    assert run(["report", "apc?", "new run", "failed"]) == 0
    hint = "Without a score: new run. 'pctool eval 'new run'' scores a run; then make the report again."
    assert capsys.readouterr().err == f"{hint}\n"
    assert hint in (folder / "report/report.md").read_text()


@pytest.mark.usefixtures("no_pictures")
def test_condition_numbers_of_an_earlier_step_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a score between two rows of the spectrum the numbers are those of the row before it, which is said."""
    make_run(Path("between"), scores={17: 30.0}, method="svd")
    assert run(["report", "between", "sn"]) == 0
    hint = "The condition numbers of between are those recorded at step 10."
    assert capsys.readouterr().err == f"{hint}\n"
    assert hint in (folder / "report/report.md").read_text()


@pytest.mark.usefixtures("no_pictures")
def test_a_seed_counts_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of two runs with the same settings and seed the one that has come furthest; how many of a row have a score."""
    make_run(Path("again"), scores={10: 50.0}, seed=1)
    (folder / "again/stats.jsonl").write_text("")
    with (folder / "apc1/stats.jsonl").open("a") as file:
        file.write(json.dumps({"step": 21}) + "\n")
    make_run(Path("apc2"), seed=2)
    assert run(["report", "again", "apc?", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["rows"][0]["runs"] == ["apc0", "apc1", "apc2"]
    assert answer["rows"][0]["score"] == {"mean": 20.5, "std": pytest.approx(0.5**0.5), "n": 2}
    assert "again has the settings and the seed of apc1, and is left out." in answer["remarks"]
    assert "20.50 ± 0.71 [2 of 3]" in (folder / "report/report.md").read_text()


@pytest.mark.usefixtures("no_pictures")
def test_scores_of_different_protocols_are_warned_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr and in every file to be read."""
    make_run(Path("more"), scores={20: 19.0}, method="none", protocol={**PROTOCOL, "n_fake": 50_000})
    assert run(["report", "apc?", "more"]) == 0
    warning = "different protocols (n_fake 10 or 50000): do not compare them"
    assert warning in capsys.readouterr().err
    assert warning in (folder / "report/report.md").read_text()
    assert warning in (folder / "report/report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no run folder at nowhere"),
        (["sn", "--metric", "fd_x"], "no run has a score 'fd_x'"),
        (["sn", "--out", "sn/config.json"], "is a file; give a folder"),
        (["sn", "--select", "worst"], "--select"),
        ([], "RUN"),
    ],
)
def test_bad_input_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """Exit 2 and no file."""
    assert run(["report", *arguments]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (folder / "report").exists()


@pytest.mark.usefixtures("no_pictures")
def test_long_names_and_many_seeds_fit_in_80_columns(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No word is broken; deviations and counts stand whole."""
    make_run(Path("new"), scores={20: 123.0}, method="none")
    make_run(Path("apc2"), seed=2, code=75)
    assert run(["report", "apc?", "new"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "no normalisation: seeds 1, step 20" in lines
    assert "APC: seeds 3 (1 unfinished), step 20" in lines
    assert any(line.split()[:6] == ["20.50", "±", "0.71", "[2", "of", "3]"] for line in lines)


@pytest.mark.usefixtures("no_pictures")
def test_an_ascii_terminal_gets_ascii(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """+- for the sign of deviations."""
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert run(["report", "apc?"]) == 0
    stdout.flush()
    assert b"20.50 +- 0.71" in stdout.buffer.getvalue()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("no_pictures")
def test_words_in_brackets_are_words(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The name of a score is no markup."""
    make_run(Path("odd"), scores={20: 1.0}, metric="fd_[/red]")
    assert run(["report", "odd", "--metric", "fd_[/red]"]) == 0
    assert "FD-[/red]" in capsys.readouterr().out


@pytest.mark.usefixtures("no_pictures")
def test_a_place_that_may_not_be_written_ends_in_5(
    folder: Path, capsys: pytest.CaptureFixture[str], forbid: Callable[[str], None]
) -> None:
    """Path and bytes are named."""
    forbid("locked")
    assert run(["report", "sn", "--out", "locked/report"]) == 5
    assert re.search(
        r"cannot write locked/report/report\.md \([\d,]+ bytes\): Permission denied", capsys.readouterr().err
    )


@pytest.mark.usefixtures("no_pictures")
def test_a_folder_whose_name_is_no_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes that are not UTF-8 stand escaped in every file."""
    odd = Path(os.fsdecode(b"r\xfcn"))
    try:
        Path("apc0").rename(odd)
    except OSError:
        pytest.skip("this file system takes no such names")
    make_run(Path("unscored"), scores={})
    Path("unscored").rename(os.fsdecode(b"n\xfc"))
    assert run(["report", str(odd), os.fsdecode(b"n\xfc"), "sn"]) == 0
    assert "\\udcfc" in (folder / "report" / "report.html").read_text(encoding="utf-8")
    assert "\\udcfc" in (folder / "report" / "report.md").read_text(encoding="utf-8")
