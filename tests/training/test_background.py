"""Work beside the training: in order, none after an error, never more than a few pieces, all done at the end."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from pctool.training.background import MOST, Background


def test_work_is_done_in_the_order_given_in_one_other_thread():
    done, threads, work = [], set(), Background()
    for i in range(20):
        work(lambda i=i: (done.append(i), threads.add(threading.get_ident())))
    work.wait()
    assert done == list(range(20))
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


def test_after_an_error_nothing_is_done_and_the_error_comes_up():
    """What was given before the error was known and comes after it would stand for what is not there."""
    done, gate, work = [], threading.Event(), Background()
    work(done.append, "before")
    work(lambda: gate.wait() and 1 / 0)
    work(done.append, "after")
    gate.set()
    with pytest.raises(ZeroDivisionError):
        work.wait()
    for ask in (work.check, work.wait, lambda: work(done.append, "later")):
        with pytest.raises(ZeroDivisionError):
            ask()
    work.close()
    assert done == ["before"]


def test_no_more_than_a_few_pieces_are_under_way():
    gate, given, work = threading.Event(), [], Background()

    def give() -> None:
        for i in range(MOST + 2):
            work(gate.wait)
            given.append(i)

    giver = threading.Thread(target=give)
    giver.start()
    giver.join(0.3)
    assert len(given) == MOST
    gate.set()
    giver.join()
    work.close()
    assert len(given) == MOST + 2


def test_close_waits_for_all_work():
    done, gate, work = [], threading.Event(), Background()
    work(lambda: (gate.wait(), done.append(1)))
    threading.Timer(0.2, gate.set).start()
    work.close()
    assert done == [1]


def test_an_interrupt_waits_for_the_piece_under_way_and_gives_up_the_rest():
    """Twice Ctrl-C while the last files are written: none is cut, none begun, the interrupt comes up behind them."""
    done, closing, work = [], threading.Event(), Background()

    def write() -> None:
        closing.wait(10)
        done.append("begun")
        for _ in range(2):
            time.sleep(0.3)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.3)
        done.append("written")

    def end() -> None:
        work(write)
        work(done.append, "next")
        closing.set()
        work.close()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            end()
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == ["begun", "written"]
    assert not work.busy()


def test_what_is_not_begun_can_be_given_up():
    done, begun, work = [], threading.Event(), Background()
    work(lambda: (begun.set(), time.sleep(0.2), done.append("written")))
    work(done.append, "next")
    assert begun.wait(10)
    work.close(give_up=True)
    assert done == ["written"]
