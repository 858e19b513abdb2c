"""The testbed's control socket: lets COMMAND end and restart programs and cut off pods. See `client.py`."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.testbed.errors import TestbedError

_OK, _REFUSED, _UNKNOWN = 200, 409, 404


def serve(socket: Path, verbs: Mapping[str, Callable[..., Any]]) -> None:
    """Serves the verbs on a unix socket, in the background.

    A verb is called by `POST /VERB` with its keyword arguments as a JSON object, and answers with JSON.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            arguments = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
            verb = verbs.get(self.path.removeprefix("/"))
            if verb is None:
                self._reply(_UNKNOWN, {"error": f"no verb {self.path}, only {', '.join(sorted(verbs))}"})
                return
            try:
                result = verb(**arguments)
            except TestbedError as error:
                self._reply(_REFUSED, {"error": str(error)})
            else:
                self._reply(_OK, {"result": result})

        def _reply(self, status: int, body: Mapping[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Keeps COMMAND's output clean."""

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

        def get_request(self) -> tuple[Any, Any]:
            # A unix socket's peer has no address, but the handler reads one.
            request, _ = super().get_request()
            return request, ("testbed", 0)

    threading.Thread(target=Server(str(socket), Handler).serve_forever, name="control", daemon=True).start()
