"""The model that every case routes to: it answers with what reached it. Nothing but the standard library: it runs as
``python -c`` text in a pod and as a replica of the local mesh.

The request header ``x-echo`` tells it how to behave, as pairs such as ``status=503, sleep=1``:

status: answer with this status
sleep: seconds before the answer
fail: answer 503 to the first so many tries of this request
reset: close the connection without an answer at the first so many tries
respond: answer with this header, as ``respond=x-a:1``

``GET /__seen?ID`` lists the requests whose header ``x-corpus-id`` begins with ID that reached this replica.
"""

import http.server
import json
import os
import socket
import threading
import time
from collections import Counter

_SUBSET = os.environ.get("SUBSET", "")
_REPLICA = f"{socket.gethostname()}-{os.getpid()}"
_tries: Counter = Counter()
_seen: list = []
_lock = threading.Lock()


class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        if self.path == "/ping":
            self.reply(200, [], "")
        elif self.path.startswith("/__seen?"):
            wanted = self.path.partition("?")[2]
            with _lock:
                found = [line for identity, line in _seen if identity.startswith(wanted)]
            self.reply(200, [], json.dumps(found))
        else:
            self.echo(body)

    def echo(self, body):
        identity = self.headers.get("x-corpus-id", "")
        with _lock:
            _tries[identity] += 1
            tries = _tries[identity]
            _seen.append((identity, f"{self.command} {self.headers.get('host')} {self.path}"))
        wanted = [pair.strip().partition("=")[::2] for pair in self.headers.get("x-echo", "").split(",") if pair]
        how = dict(wanted)
        time.sleep(float(how.get("sleep", 0)))
        if tries <= int(how.get("reset", 0)):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        status = 503 if tries <= int(how.get("fail", 0)) else int(how.get("status", 200))
        headers = [value.partition(":")[::2] for key, value in wanted if key == "respond"]
        seen = {
            "subset": _SUBSET,
            "replica": _REPLICA,
            "method": self.command,
            "path": self.path,
            "headers": [[key.lower(), value] for key, value in self.headers.items()],
            "body": body,
        }
        self.reply(status, [("x-echo-answer", _SUBSET), *headers], json.dumps(seen))

    def reply(self, status, headers, body):
        content = body.encode()
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = answer  # noqa: N815

    def log_message(self, *arguments):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256


if __name__ == "__main__":
    address = (os.environ.get("MLFLOW_ISTIO_HOST", "0.0.0.0"), int(os.environ.get("MLFLOW_ISTIO_PORT", "8080")))
    Server(address, Echo).serve_forever()
