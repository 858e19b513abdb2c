"""Serves containers' logs to the API server, so that `kubectl logs` and the client's `read_namespaced_pod_log` work."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.testbed.errors import TestbedError
from tests.testbed.network import BRIDGE_ADDRESS
from tests.testbed.processes import tail

PORT = 10250
_EVERYTHING = 1_000_000
_OK, _UNKNOWN = 200, 404


def serve(find: Callable[[str, str], Path], certificate: Path, key: Path) -> None:
    """Serves `/containerLogs/NAMESPACE/POD/CONTAINER?tailLines=N` over TLS, in the background. Doesn't follow a log.

    Args:
        find: the log file of a pod `NAMESPACE/NAME` and its container; raises TestbedError when there is no such pod.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = urlsplit(self.path)
            kind, _, rest = address.path.strip("/").partition("/")
            words = rest.split("/")
            if kind != "containerLogs" or len(words) != 3:
                self._reply(_UNKNOWN, f"the testbed's node serves no {address.path}")
                return
            lines = int(parse_qs(address.query).get("tailLines", [str(_EVERYTHING)])[0])
            try:
                log = find(f"{words[0]}/{words[1]}", words[2])
            except TestbedError as error:
                self._reply(_UNKNOWN, str(error))
            else:
                self._reply(_OK, tail(log, lines))

        def _reply(self, status: int, text: str) -> None:
            data = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Keeps COMMAND's output clean."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer((BRIDGE_ADDRESS, PORT), Handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, name="container logs", daemon=True).start()
