"""Signals while training. That only USR2 asks for a requeue is tested with whole runs in test_session.py."""

import signal
import threading
import time

import pytest

from pctool.training.signals import listen, seconds_left

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@pytest.fixture(autouse=True)
def _hangs_up():
    """Who started the tests may have had HUP ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("first", CAUGHT)
def test_the_first_signal_asks_and_a_second_interrupt_interrupts(first):
    """Any first signal only sets the request, so that the step ends; INT after it is not waited for."""
    with listen() as stop:
        assert stop.signal is None
        signal.raise_signal(first)
        assert stop.signal is first
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_term_after_interrupt_does_not_cut_the_save_short():
    """A scheduler that sends TERM twice, or after Ctrl-C, waits: the state is being saved."""
    with listen() as stop:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
            signal.raise_signal(number)
    assert stop.signal is signal.SIGINT


@pytest.mark.parametrize(
    ("signals", "requeue"),
    [
        ((signal.SIGUSR2, signal.SIGTERM), True),
        ((signal.SIGUSR1, signal.SIGTERM), True),
        ((signal.SIGTERM, signal.SIGUSR2), False),
    ],
)
def test_the_first_signal_has_the_say(signals, requeue):
    """At the end of a job's time SLURM sends TERM after USR2: the run is still to be queued again."""
    with listen() as stop:
        for number in signals:
            signal.raise_signal(number)
    assert (stop.signal, stop.requeue) == (signals[0], requeue)


def test_nohup_is_heeded():
    """What it had ignored stays ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with listen() as stop:
        signal.raise_signal(signal.SIGHUP)
    assert not stop.requested


def test_the_handlers_before_are_put_back_whatever_happens():
    """After the block, one that raised included, the process has the handlers it had."""
    before = [signal.getsignal(number) for number in CAUGHT]

    def broken():
        with listen():
            assert all(signal.getsignal(number) not in before for number in CAUGHT)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert [signal.getsignal(number) for number in CAUGHT] == before


def test_in_a_thread_nothing_is_installed():
    """Python allows handlers in the main thread alone: in another one a run trains without them."""
    before = [signal.getsignal(number) for number in CAUGHT]
    seen = []

    def train():
        with listen() as stop:
            seen.append((stop.signal, [signal.getsignal(number) for number in CAUGHT]))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert seen == [(None, before)]


def test_the_time_limit_asks_and_wants_a_requeue():
    """Past its seconds a request stands, with a requeue, also where TERM follows as SLURM sends it then; a signal or a
    collapse that came first has the say."""
    with listen(3600) as stop:
        assert not stop.requested
    with listen(0) as stop:
        assert stop.requested
        assert stop.requeue
        stop.collapse = "kappa"
        assert not stop.requeue
    with listen(0) as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.requeue
        assert stop.describe() == "time limit"
    with listen(0.2) as stop:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert stop.out_of_time
        assert not stop.requeue
        assert stop.describe() == "TERM"


def test_seconds_left(monkeypatch):
    """Minutes as given; auto from SLURM's end of the job less two minutes, none where SLURM does not say."""
    assert seconds_left(None) is None
    assert seconds_left(1.5) == 90
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    assert seconds_left("auto") is None
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 600))
    assert seconds_left("auto") == pytest.approx(480, abs=3)


def test_at_once_interrupts_once_and_ends_with_its_block():
    """In the block the first signal raises and a second TERM does not; after it signals only ask again; one that came
    before the block raises when it begins."""

    def load():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)  # what cleans up is left alone

    with listen(3600) as stop:
        with pytest.raises(KeyboardInterrupt), stop.at_once():
            load()
        signal.raise_signal(signal.SIGUSR2)
        assert stop.signal is signal.SIGTERM
        with pytest.raises(KeyboardInterrupt), stop.at_once():
            raise AssertionError("not reached")
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.parametrize("seconds", [1e10, 1e300])
def test_a_time_limit_beyond_what_a_timer_takes(seconds):
    """The block runs, as without a limit."""
    with listen(seconds) as stop, stop.at_once():
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 1e7


def test_at_once_keeps_the_time_limit():
    """The block is interrupted when the time is up; one that is done before is not, and leaves no alarm."""
    with listen(0.05) as stop:
        with pytest.raises(KeyboardInterrupt), stop.at_once():
            time.sleep(30)
        assert stop.requeue
        assert stop.describe() == "time limit"
    with listen(0.2) as stop:
        with stop.at_once():
            pass
        time.sleep(0.3)
        assert stop.requested
