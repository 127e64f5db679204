"""Scores while training are those of `pctool eval`."""

import hashlib
import json
import os
import signal

import numpy as np
import pytest
import torch
import torchvision

from pctool.cli.main import run
from pctool.core import checkpoint
from pctool.errors import InputError
from pctool.evaluation.generate import generate
from pctool.training import evaluation
from pctool.training.config import resolve
from pctool.training.ranks import Ranks
from tests.training import forked

SMALL = ["--max-images", "60", "--width-g", "8", "--width-d", "8", "--batch-size", "4", "--save-every", "2"]


@pytest.fixture(autouse=True)
def _one_reference(tmp_path_factory, monkeypatch):
    """The built-in images go through the network once for all these tests."""
    monkeypatch.setenv("PCTOOL_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "scores"))


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


@pytest.mark.parametrize("step", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_an_evaluation_that_a_signal_cuts_off_is_made_up_for(tmp_path, monkeypatch, step):
    """TERM while the run scores itself, in its midst or at its end: exit 75 at once, saved at that very step, and the
    same command ends with the metrics of a run that was left alone."""
    monkeypatch.setattr(evaluation, "N_FAKE", 80)
    command = ["train", *SMALL, "--steps", "3", "--eval-every", "2", "--save-every", "3", "--out"]
    assert run([*command, str(tmp_path / "whole")]) == 0

    scoring = []

    def interrupted(*args, **settings):
        scoring.append(len(scoring))
        for batch in generate(*args, **settings):
            if len(scoring) == step - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setattr(evaluation, "generate", interrupted)
    out = tmp_path / "r"
    assert run([*command, str(out)]) == 75
    assert (out / "checkpoints" / f"{step:08d}.pt").exists()
    assert json.loads((out / "exit.json").read_text())["step"] == step
    monkeypatch.setattr(evaluation, "generate", generate)
    assert run([*command, str(out)]) == 0
    assert (out / "metrics.jsonl").read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()
    best = [checkpoint.read(folder / "checkpoints" / "best.pt")["step"] for folder in (out, tmp_path / "whole")]
    assert best[0] == best[1]


@pytest.mark.slow
def test_lines_of_pctool_eval_are_not_the_runs_own(tmp_path, monkeypatch):
    """`pctool eval` adds a line without a distance, at a step that the run scores: training goes on, makes its own line
    of that step, and chooses the best checkpoint among its own."""
    monkeypatch.setattr(evaluation, "N_FAKE", 20)
    out = str(tmp_path / "r")
    command = ["train", *SMALL, "--out", out, "--steps"]
    assert run([*command, "2"]) == 0
    assert run(["eval", out, "--metrics", "is", "--n-fake", "20"]) == 0
    assert run([*command, "4", "--eval-every", "2"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], "fd_fashion-cnn" in line["scores"]) for line in lines] == [(2, False), (2, True), (4, True)]
    best = min(lines[1:], key=lambda line: line["scores"]["fd_fashion-cnn"])
    assert checkpoint.read(tmp_path / "r" / "checkpoints" / "best.pt")["step"] == best["step"]


@pytest.mark.slow
def test_two_ranks_score_as_one_process(tmp_path, monkeypatch):
    """Two processes with a part of the samples each give the scores of one to 1e-10 relative, and the same record.
    Where one of them fails it says why, the other ends too, and neither waits."""
    monkeypatch.setenv("PCTOOL_CACHE_DIR", str(tmp_path / "cache"))
    forked.run("two_scorers", (2, [tmp_path / "out.json"]))
    found = json.loads((tmp_path / "out.json").read_text())
    two, one = found["two"], found["one"]
    assert two.pop("scores") == pytest.approx(one.pop("scores"), rel=1e-10)
    assert two == one
    assert two["protocol"]["n_fake"] == 1100
    assert found["counted"] == 600 + 1100
    assert (tmp_path / "end1").read_text() == "InputError('a damaged network')"
    assert (tmp_path / "end0").read_text() == "SystemExit(1)"


def test_weights_that_one_rank_lacks(monkeypatch):
    """Where the extractor is not on every rank nobody scores, and one line says so, on the rank that has it too."""

    class Beside(Ranks):
        def any(self, flag, device):
            return True

    said = []
    config = resolve({"device": "cpu", "eval_every": 5})
    assert evaluation.opened(config, Beside(0, 2), said.append) is None
    assert len(said) == 1
    assert "no scores while training: another process has not got the weights" in said[0]
    assert evaluation.opened(config, Ranks(), said.append) is not None
    assert evaluation.opened(resolve({"device": "cpu", "eval_every": 0}), Beside(0, 2), said.append) is None
    assert len(said) == 1


def test_another_extractor_scores_where_one_is_named(tmp_path, capsys):
    """--eval-extractor with --eval-weights is what `pctool eval` has with --extractor and --weights, and its name is
    that of the score; an unknown one ends the run before it begins, exit code 2."""
    weights = tmp_path / "shufflenet.pth"
    torch.save(torchvision.models.get_model("shufflenet_v2_x0_5", weights=None).state_dict(), weights)
    named = {"eval_extractor": "shufflenet_v2_x0_5", "eval_weights": weights, "eval_every": 5}
    found = evaluation.extractor(resolve({"device": "cpu", **named}))
    assert found.name == "shufflenet_v2_x0_5"
    assert found.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert evaluation.extractor(resolve({"device": "cpu"})).name == "fashion-cnn"
    command = ["train", *SMALL, "--steps", "1", "--eval-every", "1", "--eval-extractor", "nosuch"]
    assert run([*command, "--out", str(tmp_path / "r")]) == 2
    assert "unknown extractor 'nosuch'" in capsys.readouterr().err
    assert not list((tmp_path / "r").glob("checkpoints/*.pt"))
    with pytest.raises(InputError, match="add --eval-every N"):
        resolve({"device": "cpu", "eval_extractor": "nosuch"})
