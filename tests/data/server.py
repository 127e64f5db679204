"""A file server on 127.0.0.1 that can misbehave."""

import contextlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Behaviour:
    """What the server does with its one file."""

    body: bytes
    ranges: bool = True
    cut_after: list[int] = field(default_factory=list)  # bytes of each answer before the connection is closed
    announce: bool = True  # Content-Length
    status: int | None = None
    stall: bool = False  # the connection stays open and silent
    asked: list[str | None] = field(default_factory=list)  # the Range header of each request


@contextlib.contextmanager
def serve(behaviour: Behaviour) -> Iterator[str]:
    """The address of the file while the server runs."""
    done = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            """Says nothing."""

        def do_GET(self):
            asked = self.headers.get("Range")
            behaviour.asked.append(asked)
            if behaviour.status:
                self.send_error(behaviour.status)
                return
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and behaviour.ranges else 0
            if start >= len(behaviour.body) and start:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(behaviour.body) - 1}/{len(behaviour.body)}")
            if behaviour.announce:
                self.send_header("Content-Length", str(len(behaviour.body) - start))
            self.end_headers()
            stop = start + behaviour.cut_after.pop(0) if behaviour.cut_after else len(behaviour.body)
            self.wfile.write(behaviour.body[start:stop])
            if behaviour.stall:
                self.wfile.flush()
                done.wait(10)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/cifar-10-binary.tar.gz"
    finally:
        done.set()
        server.shutdown()
        thread.join()
        server.server_close()
