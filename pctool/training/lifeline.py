"""A connection of every process of a run to the first one: where it breaks off, or nothing comes for a minute, a
process has died or is frozen, and the others end.

Collectives notice a dead process late or never: gloo's with the next one, which a long evaluation puts off, NCCL's
after hours (`ranks.PATIENCE`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator

from pctool.errors import PctoolError

GRACE = 5.0  # seconds that a process has to end by itself, with exit.json written, once another one is lost
LAST_WRITES = 60.0  # and so many more where it is still writing what it has computed
HELLO = 5.0  # seconds for whoever connects to say which process it is
MEETING = 30.0  # seconds for the processes to find the first one
ALIVE = b"+"  # what every process sends with every beat
DONE, FAILED = b".", b"x"  # what it sends when it leaves; one that dies sends nothing

# A process that is stopped, or whose node has vanished, closes no connection. Beats are counted, not seconds: where
# all of a job's processes are suspended, none is missed when they go on.
BEAT = 10.0  # seconds
MISSED = 5  # beats without a word after which a process counts as frozen: within a minute


class Lifeline:
    """This process's end of it. `lost` is the process that died or failed, None while all live.

    `say` is told what nobody else can say: that this process is not watched, or why it ends.
    """

    def __init__(self, rank: int, size: int, say: Callable[[str], object]) -> None:
        self.rank, self.size, self.say = rank, size, say
        self.lost: int | None = None
        self._how = ""
        self._peers: dict[socket.socket, int] = {}
        self.working: Callable[[], bool] = lambda: False  # whether this process still writes what it has computed
        self.record: Callable[[PctoolError], object] = lambda error: None  # why this process is ended
        self._found, self._left = threading.Event(), threading.Event()
        self._bell, self._hears_bell = socket.socketpair()  # wakes the watch when it is to end
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def tie(self, host: str, from_first: Callable[[tuple[int, bytes]], tuple[int, bytes]]) -> None:
        """Connects this process, `host` being where the first one runs, and begins to watch.

        `from_first` is a collective that gives rank 0's value to all.
        """
        try:
            if self.rank == 0:
                self._accept(from_first)
            else:
                port, token = from_first((0, b""))
                peer = socket.create_connection((host, port), MEETING)
                self._peers[peer] = 0
                peer.sendall(token + self.rank.to_bytes(4, "big"))
        except OSError as error:
            self.say(
                f"process {self.rank} is without a watch ({error}): should another one die, it may wait for that for "
                "hours; srun's --kill-on-bad-exit=1 and torchrun end it at once"
            )
        for peer in self._peers:
            peer.settimeout(None)
        self._thread.start()

    def _accept(self, from_first: Callable[[tuple[int, bytes]], tuple[int, bytes]]) -> None:
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        with socket.create_server(("", 0), family=family, dualstack_ipv6=dual, backlog=self.size) as server:
            _, token = from_first((server.getsockname()[1], secrets.token_bytes(16)))
            deadline = time.monotonic() + MEETING
            while len(self._peers) < self.size - 1:
                server.settimeout(max(0.01, deadline - time.monotonic()))
                peer, _ = server.accept()
                peer.settimeout(HELLO)
                hello = b""
                with contextlib.suppress(OSError):
                    hello = peer.recv(len(token) + 4, socket.MSG_WAITALL)
                if secrets.compare_digest(hello[: len(token)], token):
                    self._peers[peer] = int.from_bytes(hello[len(token) :], "big")
                else:  # a stranger
                    peer.close()

    def _watch(self) -> None:
        missed = dict.fromkeys(self._peers.values(), 0)  # beats, by the rank of whoever has not left
        next_beat = time.monotonic() + BEAT
        with selectors.DefaultSelector() as selector:
            selector.register(self._hears_bell, selectors.EVENT_READ)
            for peer, rank in self._peers.items():
                selector.register(peer, selectors.EVENT_READ, rank)
            while not self._left.is_set():  # to the end, since whoever has left may still listen
                for key, _ in selector.select(max(0.0, next_beat - time.monotonic())):
                    if self._left.is_set():
                        return
                    word = b""
                    with contextlib.suppress(OSError):
                        word = os.read(key.fd, 1)
                    if word == ALIVE:
                        missed[key.data] = 0
                    elif word == DONE:
                        selector.unregister(key.fileobj)
                        del missed[key.data]
                    else:
                        self._lose(key.data, "failed" if word else "died")
                        return
                if time.monotonic() < next_beat:
                    continue
                next_beat = time.monotonic() + BEAT
                self._send(ALIVE)
                missed = {rank: n + 1 for rank, n in missed.items()}
                for rank, n in missed.items():
                    if n > MISSED:
                        self._lose(rank, f"been silent for {n * BEAT:.0f} s (stopped, or its node is gone)")
                        return

    def _lose(self, lost: int, how: str) -> None:
        """Lets this process end by itself for a while, by an error of its own or of a collective; then ends it."""
        self.lost, self._how = lost, how
        self._found.set()
        self._send(FAILED)  # the others need not say it again
        waited, worked = 0.0, False
        while not self._left.wait(GRACE):
            working = self.working() and waited < LAST_WRITES
            if not (working or worked):
                break
            waited, worked = waited + GRACE, working  # behind the last write is the time to say how it ended
        else:
            return
        error = self._error()
        if not error.said:
            self.say(str(error))
        recording = threading.Thread(target=self.record, args=(error,), daemon=True)
        recording.start()
        recording.join(GRACE)  # storage may be what has gone
        os._exit(1)

    def _error(self) -> PctoolError:
        error = PctoolError(
            f"process {self.lost} of {self.size} has {self._how}, and so all end; what was saved is kept, the same "
            "command continues"
        )
        error.said = self._how == "failed" or self.rank != (0 if self.lost else 1)
        return error

    @contextlib.contextmanager
    def unbroken(self) -> Iterator[None]:
        """In this block a collective's error that comes of a lost process becomes a PctoolError that names it."""
        try:
            yield
        except RuntimeError:
            if not self._found.wait(1.0):
                raise
            raise self._error() from None

    def leave(self, *, failed: bool) -> None:
        """Tells the others that this process ends, as it should or by an error that it says and records itself."""
        self.record = lambda error: None
        self._send(FAILED if failed else DONE)

    def close(self) -> None:
        """Ends the watch."""
        self._left.set()
        self._bell.send(DONE)
        self._thread.join(GRACE)
        for end in (*self._peers, self._bell, self._hears_bell):
            end.close()

    def _send(self, word: bytes) -> None:
        for peer in self._peers:
            with contextlib.suppress(OSError):
                peer.sendall(word)
