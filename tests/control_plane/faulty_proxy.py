"""An HTTP proxy before the real API server that breaks chosen requests: refuses, delays nothing, loses questions or answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests
import yaml

_PASSED_ON = ("authorization", "content-type", "accept")


@dataclass
class Fault:
    """What happens to the next requests of a method on a kind.

    Attributes:
        method: HTTP method.
        path: A part of the path.
        what: ``lose-question``, ``lose-answer``, or a status code to answer without asking the server.
        times: How many requests.
    """

    method: str
    path: str
    what: str | int
    times: int = 1


@dataclass
class FaultyProxy:
    """The proxy.

    Attributes:
        address: Its own address.
        faults: What is still to go wrong.
        broken: (method, what) of what went wrong.
        asked: (method, kind in the plural) of every request, in order.
    """

    address: str
    faults: list[Fault] = field(default_factory=list)
    broken: list[tuple[str, str | int]] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, method: str, path: str) -> str | int | None:
        """The fault of this request."""
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and fault.path in path:
                    fault.times -= 1
                    self.broken.append((method, fault.what))
                    return fault.what
        return None

    def kubeconfig(self, like: str, path: Path) -> str:
        """A kubeconfig like another, whose server is this proxy."""
        config = yaml.safe_load(Path(like).read_text(encoding="utf-8"))
        config["clusters"][0]["cluster"] = {"server": self.address}
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return str(path)


def _plural(path: str) -> str:
    """The kind that a path such as ``/apis/apps/v1/namespaces/n/deployments/d?x=y`` is about."""
    parts = path.partition("?")[0].split("/")
    return parts[parts.index("namespaces") + 2] if "namespaces" in parts[:-2] else parts[-1]


@contextmanager
def faulty_proxy(kubeconfig: str) -> Iterator[FaultyProxy]:
    """A proxy before the API server of a kubeconfig."""
    cluster: dict[str, Any] = yaml.safe_load(Path(kubeconfig).read_text(encoding="utf-8"))["clusters"][0]["cluster"]
    session = requests.Session()
    session.trust_env = False  # this machine's own certificate bundle and proxies are for the world outside
    session.verify = False  # nothing but our own testbed

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_it(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            proxy.asked.append((self.command, _plural(self.path)))
            what = proxy.take(self.command, self.path)
            if what == "lose-question":
                self.close_connection = True
                return
            if isinstance(what, int):
                self.reply(what, json.dumps({"kind": "Status", "code": what, "message": f"made up {what}"}).encode())
                return
            headers = {name: self.headers[name] for name in _PASSED_ON if name in self.headers}
            answer = session.request(
                self.command, cluster["server"] + self.path, data=body, headers=headers, timeout=30
            )
            if what == "lose-answer":
                self.close_connection = True
                return
            self.reply(answer.status_code, answer.content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_it  # noqa: N815 - names that http.server looks for

        def reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Keeps the tests' output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy = FaultyProxy(address=f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        session.close()
