"""Scores while training are those of `pctool eval`."""

import json

import numpy as np

from pctool.cli.main import run
from pctool.training import evaluation

SMALL = ["--max-images", "60", "--width-g", "8", "--width-d", "8", "--batch-size", "4", "--save-every", "2"]


def test_scores_in_the_run_equal_those_of_eval(tmp_path, monkeypatch, capsys):
    """At the end and every --eval-every steps a line of metrics.jsonl; `pctool eval` with its counts finds the same."""
    monkeypatch.setattr(evaluation, "N_FAKE", 80)
    out = tmp_path / "r"
    assert run(["train", *SMALL, "--steps", "3", "--eval-every", "2", "--out", str(out)]) == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3]
    assert (lines[-1]["protocol"]["name"], lines[-1]["protocol"]["n_real"]) == ("custom", 10_000)
    capsys.readouterr()
    assert run(["eval", str(out), "--n-fake", "80", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["protocol"]["real_sha256"] == lines[-1]["protocol"]["real_sha256"]
    for name, value in again["scores"].items():
        np.testing.assert_allclose(value, lines[-1]["scores"][name], rtol=1e-6)
