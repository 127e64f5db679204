"""Whole runs, small, on the built-in images: reproducible, resumable, and never half-written."""

import contextlib
import json
import os
import shutil
import time
import unittest.mock

import h5py
import numpy as np
import pytest
import torch

from pctool.core import checkpoint as checkpoints
from pctool.core import linalg
from pctool.core.layers import strength
from pctool.errors import InputError, NonFiniteError, SavedInterrupt, WriteError
from pctool.training import loop, recorder, session, signals
from pctool.training.config import resolve
from pctool.training.run_folder import RunFolder

SMALL = {
    "max_images": 50,
    "width_g": 8,
    "width_d": 8,
    "batch_size": 4,
    "log_every": 1,
    "save_every": 4,
    "sample_every": 5,
    "spectrum_every": 3,
    "apc_every": 3,
}


class Watcher(recorder.Watcher):
    """Remembers what it is told, and asks for a stop after a given step."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.notes: list[str] = []
        self.request: signals.StopRequest | None = None

    def note(self, message):
        self.notes.append(message)

    def step(self, report):
        if report.step == self.stop_after:
            signals.signal.raise_signal(signals.signal.SIGTERM)

    def scoring(self, total):
        raise AssertionError("these runs are not scored")


def run(out, watcher: Watcher | None = None, **flags) -> session.Outcome:
    config = resolve({**SMALL, "out": out, **flags})
    with session.opened(config) as opened:
        return opened.train(watcher or Watcher())


def tensors(path) -> dict[str, torch.Tensor]:
    """Every tensor of a run's last checkpoint, by its path inside."""
    found: dict[str, torch.Tensor] = {}

    def collect(name, value):
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif isinstance(value, dict):
            for key, item in value.items():
                collect(f"{name}/{key}", item)

    collect("", checkpoints.newest(path)[1])
    return found


def stats(path) -> list[dict]:
    lines = [json.loads(line) for line in (path / "stats.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in lines]


def spectrum(path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with h5py.File(path / "spectrum.h5", "r") as file:
        file.visititems(
            lambda name, item: found.__setitem__(name, item[()]) if isinstance(item, h5py.Dataset) else None
        )
    return found


def assert_same_run(a, b):
    left, right = tensors(a), tensors(b)
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []
    assert stats(a) == stats(b)
    left, right = spectrum(a), spectrum(b)
    assert left.keys() == right.keys()
    assert [name for name in left if not np.array_equal(left[name], right[name], equal_nan=True)] == []


@pytest.mark.slow
def test_same_seed_same_bits_after_fifty_steps(tmp_path):
    """Two runs of 50 steps with one seed end with the same bits everywhere; another seed draws other weights."""
    for name, seed, steps in (("a", 0, 50), ("b", 0, 50), ("c", 1, 1)):
        run(tmp_path / name, steps=steps, seed=seed)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert not torch.equal(tensors(tmp_path / "a")["/G/dense.weight"], tensors(tmp_path / "c")["/G/dense.weight"])


FACTORED = {"arch": "cnn", "width_d": 64}  # of which two layers have their weight in two factors


@pytest.mark.parametrize(
    ("method", "networks"),
    [
        *((method, {}) for method in ("sn", "fpc", "apc", "svd")),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("none", {}), ("fpc", FACTORED))),
        ("apc", FACTORED),
    ],
    ids=lambda value: value if isinstance(value, str) else "factored" if value else "whole",
)
def test_an_interrupted_run_ends_bit_identical(tmp_path, method, networks):
    """Stopped by TERM after steps 2 and 7 and continued by the same command: no bit, line or row differs."""
    flags = {**networks, "method": method, "steps": 10, "d_iters": 2, "g_iters": 2, "decay_from": 0.5}
    whole = run(tmp_path / "whole", **flags)
    assert whole.finished
    for stop_after in (2, 7):
        part = run(tmp_path / "parts", Watcher(stop_after), **flags)
        assert (part.finished, part.step) == (False, stop_after)
    assert run(tmp_path / "parts", **flags).finished
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert [line["step"] for line in stats(tmp_path / "parts")] == list(range(1, 11))
    assert spectrum(tmp_path / "parts")["step"].tolist() == [0, 3, 6, 9, 10]


def test_killed_between_checkpoints_loses_only_the_steps_since(tmp_path, monkeypatch):
    """A crash at step 7 continues from the checkpoint of step 4, writes 5 to 7 again, and ends bit-identical."""
    run(tmp_path / "whole", steps=10)

    class Crash(Watcher):
        def step(self, report):
            if report.step == 8:
                raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "parts", Crash(), steps=10)
    watcher = Watcher()
    run(tmp_path / "parts", watcher, steps=10)
    assert any("continues, at step 4" in note for note in watcher.notes)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_damaged_newest_checkpoint_is_kept_and_the_one_before_used(tmp_path):
    """One flipped byte in the newest file: the run says so, goes on from the one before, and keeps the bad file."""
    run(tmp_path / "whole", steps=10)
    run(tmp_path / "run", steps=8)
    newest = tmp_path / "run/checkpoints/00000008.pt"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    watcher = Watcher()
    run(tmp_path / "run", watcher, steps=10)
    assert any("00000008.pt differs from its SHA-256" in note and "damaged" in note for note in watcher.notes)
    assert any("step 4" in note for note in watcher.notes)
    assert newest.with_name("00000008.pt.damaged").read_bytes() == data


@pytest.mark.parametrize(("method", "layers"), [("fpc", 10), ("sn", 0)])
def test_the_polynomial_runs_once_forward_and_once_back_per_update_of_d(tmp_path, monkeypatch, method, layers):
    """4 steps of (2,2) with 10 preconditioned layers: each once per update of D, no more.

    4 blocks of 2 convolutions and 2 shortcuts; the last linear layer has spectral norm alone, as all have under sn.
    """
    counted = {"forward": 0, "backward": 0}
    for name in counted:
        kept = getattr(linalg._PolynomialOfMatrix, name)

        def counting(ctx, W, *arguments, name=name, kept=kept):
            result = kept(ctx, W, *arguments)
            counted[name] += len(W) * (ctx.how[0] > 1)  # layers in this batch, unless it has the spectral norm alone
            return result

        monkeypatch.setattr(linalg._PolynomialOfMatrix, name, staticmethod(counting))
    run(tmp_path / "run", steps=4, d_iters=2, g_iters=2, method=method)
    assert counted == {"forward": 4 * 2 * layers, "backward": 4 * 2 * layers}


def test_the_loop_reads_ahead_and_no_further(tmp_path, monkeypatch):
    """Three steps of two updates of D take six batches. Where the next step's cannot be had, the step before it is
    counted and saved first, whatever `save_every` is, and what goes on from there is said."""
    train, taken = loop.train, []

    def counting(state, reals, *rest, **named):
        def counted():
            for batch in reals:
                if len(taken) == limit:
                    raise InputError("a broken image")
                taken.append(1)
                yield batch

        return train(state, counted(), *rest, **named)

    monkeypatch.setattr(loop, "train", counting)
    limit = 100
    run(tmp_path / "whole", steps=3, d_iters=2)
    assert len(taken) == 6
    taken.clear()
    limit, watcher = 5, Watcher()
    with pytest.raises(InputError, match="a broken image"):
        run(tmp_path / "broken", watcher, steps=5, d_iters=2, save_every=100)
    assert [line["step"] for line in stats(tmp_path / "broken")] == [1, 2]
    newest = checkpoints.newest(tmp_path / "broken")[0]
    assert newest.stem == "00000002"
    assert f"--fork {newest} --out NEW" in watcher.notes[-1]


def test_a_measurement_under_way_survives_an_interruption(tmp_path, monkeypatch):
    """APC measured at step 4, to be applied at step 6: a stop at step 5 in between changes no bit of the end."""
    monkeypatch.setattr(strength, "DELAY", 2)
    flags = {"steps": 10, "apc_every": 4, "taus": (1.4, 1.6, 1.8, 2.0), "lr_d": 1e-2, "spectrum_every": 1}
    run(tmp_path / "whole", **flags)
    strengths = [line["strengths"] for line in stats(tmp_path / "whole") if "strengths" in line]
    assert len(strengths) > 1, "the thresholds were to force a change"
    assert not run(tmp_path / "parts", Watcher(5), **flags).finished
    saved = checkpoints.newest(tmp_path / "parts")[1]["preconditioner"]
    assert saved["blocks.0.conv1"]["pending"] > 1
    assert run(tmp_path / "parts", **flags).finished
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_no_error_of_the_last_write_is_lost(tmp_path, monkeypatch):
    """The checkpoint of the last step cannot be written: the run does not end as if it had been. Beside another error
    the watcher is told, and so for a stop by NaN."""

    def fail(folder, checkpoint, keep):
        raise WriteError(f"cannot write {checkpoint['step']}")

    monkeypatch.setattr(RunFolder, "save_checkpoint", fail)
    with pytest.raises(WriteError, match="cannot write 2"):
        run(tmp_path / "end", steps=2)
    watcher = Watcher()
    monkeypatch.setattr(loop, "check_finite", not_finite_at(4))
    with pytest.raises(NonFiniteError):
        run(tmp_path / "nan", watcher, steps=10, save_every=4)
    assert watcher.notes[-1] == "cannot write 4"


def not_finite_at(step):
    def check(state, outcome):
        if state.step == step:
            raise NonFiniteError("NaN")

    return check


def test_a_lagging_power_iteration_is_said_once(tmp_path, monkeypatch):
    """Where the norm is far above its estimate the note names step, layer, ratio and the flag, once a run; a
    polynomial of degree 1 has no range to leave."""

    def lag(weights, us, vs, n_iterations):
        for v in vs:
            v.copy_(v.roll(1))  # an estimate that is far off

    monkeypatch.setattr("pctool.core.layers.preconditioner.power_iteration_", lag)
    watcher = Watcher()
    with contextlib.suppress(NonFiniteError):  # the polynomial is far out of its range
        run(tmp_path / "fpc", watcher, method="fpc", steps=4, spectrum_every=1)
    (said,) = [note for note in watcher.notes if "times its estimate" in note]
    assert "--n-power-iterations 2" in said
    assert "step 1: in " in said
    watcher = Watcher()
    run(tmp_path / "sn", watcher, method="sn", steps=2, spectrum_every=1)
    assert [note for note in watcher.notes if "times its estimate" in note] == []


def test_the_time_limit_saves_and_asks_for_a_requeue(tmp_path):
    """A limit that has passed ends the run after its step, saved, to be queued again; the same command continues."""

    class Late(Watcher):
        def begin(self, step, total_steps):
            self.request._deadline = 0.0

    late = Late()
    config = resolve({**SMALL, "out": tmp_path / "parts", "steps": 4, "time_limit": 60})
    with session.opened(config) as opened:
        late.request = opened.stop
        part = opened.train(late)
    assert (part.finished, part.requeue, part.step) == (False, True, 1)
    run(tmp_path / "parts", steps=4)
    run(tmp_path / "whole", steps=4)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("stop_by", ["SIGTERM", "SIGUSR2", "time limit"])
def test_loading_ends_at_once(tmp_path, monkeypatch, stop_by):
    """A signal or the time limit while data are loaded: nothing is waited for. USR2 and the limit ask for a requeue;
    TERM leaves a saved run as it is, and where nothing was computed it is an interrupt. The run folder is let go."""

    def slow(config, **progress):
        if stop_by != "time limit":
            signals.signal.raise_signal(signals.signal.Signals[stop_by])
        time.sleep(60)

    flags = {"steps": 4, "time_limit": 1e-3 if stop_by == "time limit" else None}
    began = time.monotonic()
    with monkeypatch.context() as patched:
        patched.setattr("pctool.training.images.load", slow)
        with pytest.raises(KeyboardInterrupt if stop_by == "SIGTERM" else SavedInterrupt):
            run(tmp_path / "run", **flags)
        assert not (tmp_path / "run").exists()
    run(tmp_path / "run", steps=2)
    with monkeypatch.context() as patched:
        patched.setattr("pctool.training.images.load", slow)
        with pytest.raises(SavedInterrupt, match="while loading data; the run is saved at step 2"):
            run(tmp_path / "run", **flags)
    assert time.monotonic() - began < 50
    assert signals.signal.getitimer(signals.signal.ITIMER_REAL) == (0, 0)
    assert run(tmp_path / "run", steps=4).finished


def test_anothers_checkpoint_in_the_folder_is_refused(tmp_path):
    """A checkpoint of the same shape copied in from a run with another seed: one line that names it."""
    run(tmp_path / "run", steps=4)
    run(tmp_path / "other", steps=6, seed=1)
    for path in (tmp_path / "other/checkpoints").glob("00000006.*"):
        shutil.copy(path, tmp_path / "run/checkpoints")
    with pytest.raises(InputError, match=r"checkpoint is of another run \(seed: 1 -> 0\)"):
        run(tmp_path / "run", steps=8)


def test_a_collapse_is_recorded_and_stops_only_where_asked(tmp_path, monkeypatch):
    """With a rule that fires at the third row: alarm.json and one note; --stop-on-collapse saves and ends the run
    there; a run that continues from before the alarm forgets it."""
    monkeypatch.setattr("pctool.training.recorder.collapse", lambda rows: "it collapses" if len(rows) >= 3 else None)
    watcher = Watcher()
    assert run(tmp_path / "warned", watcher, steps=9).finished
    assert [note for note in watcher.notes if note.startswith("it collapses")] == [
        "it collapses; --stop-on-collapse would stop here"
    ]
    assert json.loads((tmp_path / "warned/alarm.json").read_text()) == {"step": 6, "reason": "it collapses"}
    stopped = run(tmp_path / "stopped", steps=9, stop_on_collapse=True)
    assert (stopped.finished, stopped.step, stopped.collapse) == (False, 6, "it collapses")
    assert checkpoints.newest(tmp_path / "stopped")[1]["step"] == 6
    (tmp_path / "stopped/checkpoints/00000006.pt").unlink()
    monkeypatch.undo()
    assert run(tmp_path / "stopped", steps=9).finished
    assert not (tmp_path / "stopped/alarm.json").exists()


def test_a_longer_schedule_is_said(tmp_path):
    """Trained on to more steps the rate follows another line from there; with a fixed step and end it does not."""
    run(tmp_path / "run", steps=4)
    watcher = Watcher()
    run(tmp_path / "run", watcher, steps=8)
    said = "the learning rate now falls from step 4 to 8; before, it falls from step 2 to 4"
    assert [note for note in watcher.notes if "rate" in note] == [said]
    again = Watcher()
    run(tmp_path / "run", again, steps=8)
    assert [note for note in again.notes if "rate" in note] == []


def test_how_a_run_ended_is_gone_while_it_trains_and_stays_when_it_is_finished(tmp_path):
    (tmp_path / "run").mkdir()
    left = tmp_path / "run/exit.json"
    left.write_text("{}")

    class Looking(Watcher):
        def step(self, report):
            assert not left.exists()

    run(tmp_path / "run", Looking(), steps=2)
    left.write_text("{}")
    assert run(tmp_path / "run", steps=2).finished
    assert left.exists()


def test_the_summary_shows_the_score_of_most_samples(tmp_path):
    """A quick look at a finished run replaces no score, as in a report."""
    run(tmp_path / "r", steps=2)
    for n_fake, fid in ((100, 1.0), (10, 2.0)):
        entry = {"step": 2, "scores": {"fid": fid}, "protocol": {"n_fake": n_fake}}
        RunFolder(tmp_path / "r").log("metrics.jsonl", entry)
    assert run(tmp_path / "r", steps=2).scores == {"fid": 1.0}
    RunFolder(tmp_path / "r").log("metrics.jsonl", {"step": 2, "protocol": {"n_fake": 200}, "scores": {"fid": "x"}})
    assert run(tmp_path / "r", steps=2).scores == {}, "what is no number is none"


def test_a_fork_goes_on_from_anothers_checkpoint(tmp_path):
    """--fork with the same settings continues bit for bit in a folder of its own; with another method it takes the
    weights and measures anew; the checkpoint is part of the identity."""
    run(tmp_path / "whole", steps=8)
    run(tmp_path / "first", Watcher(4), steps=8)
    source = tmp_path / "first/checkpoints/00000004.pt"
    run(tmp_path / "fork", steps=8, fork=source)
    left, right = tensors(tmp_path / "whole"), tensors(tmp_path / "fork")
    assert [name for name in left if not torch.equal(left[name], right[name])] == []
    assert [line["step"] for line in stats(tmp_path / "fork")] == [5, 6, 7, 8]
    run(tmp_path / "none", steps=2, method="none")
    other = tmp_path / "none" / "checkpoints/00000002.pt"
    assert run(tmp_path / "none-apc", fork=other, steps=4).finished
    assert "strengths" in stats(tmp_path / "none-apc")[0]
    with pytest.raises(InputError, match="fork_sha256"):
        run(tmp_path / "fork", steps=8, fork=other)
    with pytest.raises(InputError, match=r"of other networks \(width_d: 8 -> 16\); give its settings"):
        run(tmp_path / "wide", steps=8, fork=source, width_d=16)
    with pytest.raises(InputError, match="of step 4; --steps 4 leaves nothing to train"):
        run(tmp_path / "short", steps=4, fork=source)
    assert not (tmp_path / "wide").exists()
    part = run(tmp_path / "wide", Watcher(6), steps=8, fork=source)  # the refused command leaves no run behind
    config = resolve({**SMALL, "out": tmp_path / "wide", "steps": 8, "fork": source})
    images = unittest.mock.Mock(sha256="0" * 64)
    hashes = session.identity_hashes(config, images)
    for change in (lambda: shutil.copy(other, source), source.unlink):  # best.pt is replaced, others are removed
        change()
        assert session.identity_hashes(config, images) == hashes
        assert session.identity_hashes(config.model_copy(update={"fork": None}), images) == hashes
    assert (part.step, run(tmp_path / "wide", steps=8, fork=source).finished) == (6, True)
    left, right = tensors(tmp_path / "whole"), tensors(tmp_path / "wide")
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def test_a_fork_that_was_killed_before_it_recorded_anything(tmp_path):
    """Without --fork it would begin from drawn weights: refused, naming the command; with it, it goes on."""
    run(tmp_path / "first", steps=2)
    source = tmp_path / "first/checkpoints/00000002.pt"
    run(tmp_path / "fork", Watcher(3), steps=4, fork=source)
    for path in (tmp_path / "fork").rglob("*"):
        if path.is_file() and path.name != "config.json":
            path.unlink()
    with pytest.raises(InputError, match=r"fork_sha256: .* -> None.*; it was begun by: "):
        run(tmp_path / "fork", steps=4)
    assert run(tmp_path / "fork", steps=4, fork=source).finished
    assert stats(tmp_path / "fork")[0]["step"] == 3


def test_a_damaged_spectrum_is_refused_before_anything_is_recorded(tmp_path):
    """More steps than before are no part of the run until they are trained."""
    run(tmp_path / "r", steps=4)
    os.truncate(tmp_path / "r" / "spectrum.h5", 3000)
    with pytest.raises(InputError, match=r"spectrum\.h5 is damaged or no HDF5 file; move it away"):
        run(tmp_path / "r", steps=6)
    assert json.loads((tmp_path / "r" / "config.json").read_text())["identity"]["steps"] == 4
    (tmp_path / "r" / "spectrum.h5").unlink()
    assert run(tmp_path / "r", steps=4).finished


def test_a_run_that_finishes_asks_for_no_requeue(tmp_path):
    """Whatever came during its last step."""

    class Late(Watcher):
        def step(self, report):
            if report.step == 2:
                signals.signal.raise_signal(signals.signal.SIGUSR2)

    outcome = run(tmp_path / "r", Late(), steps=2)
    assert (outcome.finished, outcome.requeue) == (True, False)


def test_the_best_checkpoint_by_score_is_kept(tmp_path, monkeypatch):
    """Distances 5, 3, 4 at steps 2, 4, 6: best.pt is step 4's, also when the run is interrupted after it. What is due
    at a step is written before it is scored, however long that takes."""
    save = RunFolder.save_checkpoint
    monkeypatch.setattr(RunFolder, "save_checkpoint", lambda *a: (time.sleep(0.3), save(*a)))

    class Scorer:
        n_images = 1

        def __init__(self, config, ranks):
            pass

        def score(self, G_ema, step, stop, advance):
            assert step == 2 or (tmp_path / f"run/checkpoints/{step:08d}.pt").exists()
            scores = {"fd_fashion-cnn": {2: 5.0, 4: 3.0, 6: 4.0}[step], "is_fashion-cnn": 1.0}
            return {"step": step, "scores": scores, "protocol": {}}

        def made(self, protocol):
            return True

    class Scored(Watcher):
        def scoring(self, total):
            return contextlib.nullcontext(lambda n: None)

    monkeypatch.setattr("pctool.training.evaluation.Scorer", Scorer)
    flags = {"steps": 6, "eval_every": 2, "keep": 1}
    assert not run(tmp_path / "run", Scored(5), **flags).finished
    outcome = run(tmp_path / "run", Scored(), **flags)
    best = checkpoints.read(outcome.files["best"])
    assert best["step"] == 4
    assert [path.stem for path in checkpoints.list_checkpoints(tmp_path / "run")] == ["00000006"]


def test_learning_rate_falls_linearly_to_zero(tmp_path):
    """Constant to decay_from, then down in equal steps."""
    run(tmp_path / "run", steps=8, decay_from=0.5)
    rates = [line["lr"] / 2e-4 for line in stats(tmp_path / "run")]
    assert rates == pytest.approx([1, 1, 1, 1, 1, 0.75, 0.5, 0.25])


@pytest.mark.parametrize("network", ["G", "D"])
def test_a_loss_that_is_not_finite_stops_before_it_is_applied(tmp_path, monkeypatch, network):
    """A NaN in the sixth loss of G or of D ends the run naming step and network; the checkpoint of step 4 is the last,
    and neither that update nor a later one of the step has changed anything: after G's both networks are as they were.
    """
    loss, states, kept, seen, build = loop.LOSSES["hinge"], [], {}, [], session.TrainingState
    monkeypatch.setattr(session, "TrainingState", lambda *a: states.append(build(*a)) or states[-1])

    def poisoned(*logits):
        seen.append(1)
        value = getattr(loss, network.lower())(*logits)
        if len(seen) != 6:
            return value
        kept.update({(net, name): p.clone() for net in "GD" for name, p in getattr(states[0], net).named_parameters()})
        return value * float("nan")

    functions = {"d": loss.d, "g": loss.g, network.lower(): poisoned}
    monkeypatch.setitem(loop.LOSSES, "hinge", type(loss)(functions["d"], functions["g"]))
    words = f"step 5: the loss of {network} is nan: all weights of G and D are finite;"
    with pytest.raises(NonFiniteError, match=words):
        run(tmp_path / "run", steps=10)
    saved = checkpoints.newest(tmp_path / "run")[1]
    assert saved["step"] == 4
    assert all(torch.isfinite(v).all() for v in saved["D"].values())
    for (net, name), before in kept.items():
        assert torch.equal(getattr(states[0], net).get_parameter(name), before), f"{net}.{name}"


def test_a_nan_is_never_saved(tmp_path):
    """A checkpoint with a NaN in any network, Adam's moments or the power iteration's vectors is refused by name."""
    from pctool.training.state import TrainingState

    run(tmp_path / "run", steps=2)
    whole = checkpoints.read(tmp_path / "run" / "checkpoints" / "00000002.pt")
    places = {
        r"G_ema\.dense\.bias": whole["G_ema"]["dense.bias"],
        r"optim_d\.state\.0\.exp_avg": whole["optim_d"]["state"][0]["exp_avg"],
        r"preconditioner\..*\.v": next(iter(whole["preconditioner"].values()))["v"],
    }
    for name, tensor in places.items():
        before = tensor.clone()
        tensor.flatten()[0] = float("nan")
        state = TrainingState(resolve({**SMALL, "out": tmp_path}))
        state.load(whole)
        with pytest.raises(NonFiniteError, match=name):
            state.checkpoint()
        tensor.copy_(before)


def test_another_configuration_is_refused_and_touches_nothing(tmp_path):
    """Each difference is listed as key: old -> new, more steps are allowed, fewer are not; files stay as they are."""
    run(tmp_path / "run", steps=4)
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(InputError, match=r"lr_g: 0.0002 -> 0.0003; seed: 0 -> 1"):
        run(tmp_path / "run", steps=4, seed=1, lr_g=3e-4)
    with pytest.raises(InputError, match=r"max_images: 50 -> 49\);"):
        run(tmp_path / "run", steps=4, max_images=49)
    with pytest.raises(InputError, match=r"steps: 4 -> 3"):
        run(tmp_path / "run", steps=3)
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before
    assert run(tmp_path / "run", steps=6, log_every=2, save_every=3).finished


def test_a_foreign_folder_and_a_folder_in_use_are_refused(tmp_path):
    """A folder with other files is left alone; a second process on one run folder is refused."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter1.tex").write_text("x")
    with pytest.raises(InputError, match="no run folder"):
        run(tmp_path / "thesis")
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["chapter1.tex"]
    config = resolve({**SMALL, "out": tmp_path / "run"})
    with session.opened(config), pytest.raises(InputError, match="another process"), session.opened(config):
        pass


def test_keep_counts_checkpoints(tmp_path):
    """Only the newest `keep` checkpoints and their sums stay."""
    run(tmp_path / "run", steps=10, save_every=2, keep=3)
    names = sorted(p.name for p in (tmp_path / "run/checkpoints").iterdir())
    steps = ["00000006.pt", "00000008.pt", "00000010.pt"]
    assert names == sorted([*steps, *[f"{s}.sha256" for s in steps]])


def test_on_a_cpu_freed_memory_is_kept(tmp_path, monkeypatch):
    """A run makes the setting once for its process."""
    made = []
    monkeypatch.setattr(session, "keep_freed_memory", lambda: made.append(True))
    run(tmp_path / "run", steps=1)
    assert made == [True]


def test_switched_off_actions_leave_no_files(tmp_path):
    """An `*-every` of 0 switches that action off; the checkpoint at the end stays."""
    off: dict[str, int] = dict.fromkeys(["log_every", "save_every", "sample_every", "spectrum_every"], 0)
    run(tmp_path / "run", steps=3, **off)
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert names <= {"config.json", "checkpoints", ".lock"}
    assert [p.name for p in checkpoints.list_checkpoints(tmp_path / "run")] == ["00000003.pt"]


def test_usr2_asks_for_a_requeue_and_term_does_not():
    """Only USR2 says that the scheduler should start the job again."""
    for number, requeue in ((signals.signal.SIGUSR2, True), (signals.signal.SIGTERM, False)):
        with signals.listen() as stop:
            signals.signal.raise_signal(number)
        assert (stop.signal, stop.requeue) == (number, requeue)


def test_fewer_images_than_a_batch_are_said(tmp_path):
    """A slip in the folder's name trains on what little it holds, some of it twice in each batch: a note says so."""
    few, enough = Watcher(), Watcher()
    run(tmp_path / "few", few, steps=1, max_images=3, batch_size=4)
    run(tmp_path / "enough", enough, steps=1, max_images=4, batch_size=4)
    said = "3 images make batches of 4: some are there more than once"
    assert said in few.notes
    assert not any("make batches" in note for note in enough.notes)


@pytest.mark.parametrize("masked", [False, True])
def test_too_little_memory_is_one_line(tmp_path, monkeypatch, masked):
    """What the device cannot hold is said with what takes less; also where the end of a recording fails over it."""

    def full(*args, **kwargs):
        try:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 80 GiB")
        finally:
            if masked:
                raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(loop, "train", full)
    with pytest.raises(InputError, match=r"Tried to allocate 2\.00 GiB\); a smaller --batch-size, .*--precision bf16"):
        run(tmp_path / "run", steps=1)


def test_a_figure_that_cannot_be_drawn_ends_no_run(tmp_path, monkeypatch):
    """The run is done and saved; a note says what is missing."""

    def refuse(*args):
        raise WriteError("no room")

    monkeypatch.setattr(session, "evolution_figure", refuse)
    watcher = Watcher()
    outcome = run(tmp_path / "run", watcher, steps=1)
    assert outcome.finished
    assert "figure" not in outcome.files
    assert outcome.kappas
    assert watcher.notes[-1] == "spectrum.png was not drawn: no room"
