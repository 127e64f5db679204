"""`pctool doctor`."""

import json

from pctool.cli.main import run


def test_doctor_says_what_is_here_and_what_is_missing(capsys):
    """The built-in data counts as usable, CIFAR-10 and Inception are named as absent with what to do."""
    assert run(["doctor", "--json"]) == 0
    rows = {row["check"]: row for row in json.loads(capsys.readouterr().out)["checks"]}
    assert rows["fashion-mnist test"]["found"] == "built in"
    assert rows["cifar10 train"]["found"] == "absent"
    assert "pctool data" in rows["cifar10 train"]["means"]
    assert rows["Inception"]["found"] == "no weights"
    assert run(["doctor"]) == 0
    assert "torch" in capsys.readouterr().out
