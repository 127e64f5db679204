"""The connection that tells the processes of a run that one of them has died."""

import contextlib
import socket
import threading
import time

import pytest

from pctool.errors import PctoolError
from pctool.training import lifeline


@pytest.fixture
def ended(monkeypatch):
    """Where a process would have ended itself: what it would have had as code."""
    codes = []
    monkeypatch.setattr(lifeline, "GRACE", 0.2)
    monkeypatch.setattr(lifeline.os, "_exit", codes.append)
    return codes


def tied(size: int = 2, before=lambda port: None) -> tuple[list[lifeline.Lifeline], list[str]]:
    """Connected processes, as threads of this one; what any of them said. `before` the others, a port is known."""
    said: list[str] = []
    lines = [lifeline.Lifeline(rank, size, said.append) for rank in range(size)]
    shared, known = [], threading.Event()

    def from_first(value):
        if value[0]:
            before(value[0])
            shared.append(value)
            known.set()
        known.wait(10)
        return shared[0]

    threads = [threading.Thread(target=line.tie, args=("localhost", from_first)) for line in lines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return lines, said


def die(line: lifeline.Lifeline) -> None:
    """As the kernel does when a process is killed."""
    line._left.set()
    for peer in line._peers:
        peer.shutdown(socket.SHUT_RDWR)


def wait_for(line: lifeline.Lifeline) -> None:
    assert line._found.wait(10)


@pytest.mark.parametrize("early", [0, 1])
@pytest.mark.parametrize("size", [2, 3])
def test_a_process_that_is_done_may_go(ended, monkeypatch, early, size):
    """One is done long before the others, and takes long to go: nobody is lost, and all leave."""
    monkeypatch.setattr(lifeline, "BEAT", 0.1)
    lines, said = tied(size)
    others = [line for line in lines if line.rank != early]
    lines[early].leave(failed=False)
    time.sleep(2 * lifeline.BEAT * lifeline.MISSED)
    assert [line.lost for line in lines] == [None] * size
    lines[early].close()
    time.sleep(2 * lifeline.BEAT * lifeline.MISSED)
    assert [line.lost for line in others] == [None] * (size - 1)
    for line in others:
        line.leave(failed=False)
        line.close()
    assert (ended, said) == ([], [])
    assert not any(line._thread.is_alive() for line in lines)


def test_last_writes_are_not_cut_short(ended):
    """Another process is lost while one still writes what it has computed: it is given the time, and then to say why
    it ends; who never ends is ended."""
    lines, _ = tied()
    done = threading.Event()
    lines[0].working = lambda: not done.is_set()
    die(lines[1])
    wait_for(lines[0])
    time.sleep(5 * lifeline.GRACE)
    assert ended == []
    done.set()
    lines[0].leave(failed=True)
    lines[0].close()
    assert ended == []
    lines[1].close()


def test_last_writes_may_not_take_for_ever(ended, monkeypatch):
    """Nor does an idle process wait: after its time it is ended, whatever it waits for."""
    monkeypatch.setattr(lifeline, "LAST_WRITES", 0.5)
    lines, _ = tied()
    lines[0].working = lambda: True
    die(lines[1])
    lines[0]._thread.join(10)
    assert ended == [1]
    for line in lines:
        line.close()


@pytest.mark.parametrize(("victim", "speaks"), [(2, 0), (0, 1)])
def test_a_death_is_found_by_all_and_said_once(ended, victim, speaks):
    """A broken connection: a collective's error names the dead process; one of the living says it, all end with code 1
    where they are stuck elsewhere."""
    lines, said = tied(3)
    die(lines[victim])
    living = [line for line in lines if line.rank != victim]
    for line in living:
        wait_for(line)
        named = rf"process {victim if line.rank != 1 else 0} of 3 has"
        with pytest.raises(PctoolError, match=named) as caught, line.unbroken():
            raise RuntimeError("Connection closed by peer")
        assert caught.value.said == (line.rank != speaks)
    for line in living:
        line._thread.join(10)
    for line in lines:
        line.close()
    assert ended == [1, 1]
    assert len(said) == 1
    assert f"process {victim} of 3 has died" in said[0]


def test_an_error_that_one_process_says_is_not_said_again(ended):
    """One leaves by an error: the other ends too, in silence; in time by itself, it is left alone."""
    lines, said = tied()
    lines[1].leave(failed=True)
    wait_for(lines[0])
    with pytest.raises(PctoolError) as caught, lines[0].unbroken():
        raise RuntimeError("Connection closed by peer")
    assert caught.value.said
    for line in lines:
        line.close()
    assert (ended, said) == ([], [])


def test_a_bug_stays_a_bug():
    """A RuntimeError while all live is passed on."""
    lines, _ = tied()
    with pytest.raises(RuntimeError, match="of its own"), lines[0].unbroken():
        raise RuntimeError("of its own")
    for line in lines:
        line.leave(failed=False)
        line.close()


def test_strangers_are_turned_away(ended, monkeypatch):
    """Whoever connects without the run's token is no process of it, nor who says nothing."""
    monkeypatch.setattr(lifeline, "HELLO", 1.0)
    strangers = []

    def knock(port):
        strangers.extend(socket.create_connection(("localhost", port)) for _ in range(2))
        strangers[0].sendall(bytes(20))

    lines, said = tied(before=knock)
    assert list(lines[0]._peers.values()) == [1]
    strangers[0].settimeout(10)
    with contextlib.suppress(ConnectionError):
        assert strangers[0].recv(1) == b""
    for stranger in strangers:
        stranger.close()
    for line in lines:
        line.leave(failed=False)
        line.close()
    assert (ended, said) == ([], [])


def test_who_finds_nobody_says_so_and_trains(monkeypatch):
    """Where the first process cannot be reached the run goes on without a watch, and a line says what that means."""
    monkeypatch.setattr(lifeline, "MEETING", 0.2)
    said: list[str] = []
    with socket.create_server(("localhost", 0)) as nobody:
        port = nobody.getsockname()[1]
    second = lifeline.Lifeline(1, 2, said.append)
    second.tie("localhost", lambda value: (port, b"token"))
    first = lifeline.Lifeline(0, 2, said.append)
    first.tie("localhost", lambda value: value)
    for line in (first, second):
        line.leave(failed=False)
        line.close()
    assert [text.split(" (")[0] for text in said] == [f"process {rank} is without a watch" for rank in (1, 0)]


@pytest.mark.parametrize("victim", [1, 0])
def test_a_frozen_process_is_found_and_an_idle_one_is_not(ended, monkeypatch, victim):
    """Connections stay open: whoever beats is alive however long nothing else happens, whoever does not is named."""
    monkeypatch.setattr(lifeline, "BEAT", 0.05)
    lines, said = tied(3)
    time.sleep(2 * lifeline.BEAT * lifeline.MISSED)
    assert [line.lost for line in lines] == [None] * 3
    monkeypatch.setattr(lines[victim], "_send", lambda word: None)
    living = [line for line in lines if line.rank != victim]
    for line in living:
        wait_for(line)
    for line in living:
        line._thread.join(10)
    for line in lines:
        line.close()
    assert lines[0 if victim else 1].lost == victim
    assert f"process {victim} of 3 has been silent for" in said[0]
    assert set(ended) == {1}


def test_why_a_process_is_ended_is_recorded_before(ended):
    """In time where that takes long: storage may be what has gone."""
    (line, other), _ = tied()
    told, stuck = [], threading.Event()
    line.record = lambda error: (told.append((str(error), list(ended))), stuck.wait(10))
    die(other)
    line._thread.join(5)
    stuck.set()
    assert ended == [1]
    assert [(text.startswith("process 1 of 2 has died"), before) for text, before in told] == [(True, [])]
    for end in (line, other):
        end.close()


def test_who_leaves_has_recorded_why(ended):
    """The others end over it: that is no reason of its own, however long it takes to go."""
    lines, _ = tied()
    told = []
    lines[0].record = told.append
    lines[0].leave(failed=True)
    for line in lines:
        line._thread.join(5)
        line.close()
    assert (ended, told) == ([1, 1], [])
