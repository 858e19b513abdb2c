"""The gRPC model of the corpus: it answers every unary call with what reached it. Nothing but grpcio: it runs as ``python -c``
text in a pod and as a replica of the local mesh.

The metadatum ``x-echo`` tells it how to behave, as pairs such as ``status=INTERNAL, sleep=1``:

status: end the call with this status, after its leading metadata
sleep: seconds before the answer
fail: end the first so many tries of this call with UNAVAILABLE at once: what has begun to be answered, no proxy tries again

``/echo.Echo/Seen`` lists the calls whose ``x-corpus-id`` begins with the request's message; ``grpc.health.v1`` says SERVING.
"""

import json
import os
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc

_SUBSET = os.environ.get("SUBSET", "")
_REPLICA = f"{socket.gethostname()}-{os.getpid()}"
_tries: Counter = Counter()
_seen: list = []
_lock = threading.Lock()


def answer(method, message, context):
    if method == "/grpc.health.v1.Health/Check":
        return b"\x08\x01"
    metadata = [(name, value) for name, value in context.invocation_metadata()]
    if method == "/echo.Echo/Seen":
        with _lock:
            return json.dumps([line for identity, line in _seen if identity.startswith(message.decode())]).encode()
    given = dict(metadata)
    identity = given.get("x-corpus-id", "")
    with _lock:
        _tries[identity] += 1
        tries = _tries[identity]
        _seen.append((identity, f"CALL {method}"))
    how = dict(pair.strip().partition("=")[::2] for pair in given.get("x-echo", "").split(",") if pair)
    time.sleep(float(how.get("sleep", 0)))
    context.set_trailing_metadata((("x-echo-trailer", _SUBSET),))
    if tries <= int(how.get("fail", 0)):
        context.abort(grpc.StatusCode.UNAVAILABLE, f"as {_SUBSET} was told")
    context.send_initial_metadata((("x-echo-answer", _SUBSET),))
    if "status" in how:
        context.abort(grpc.StatusCode[how["status"]], f"as {_SUBSET} was told")
    seen = {
        "subset": _SUBSET,
        "replica": _REPLICA,
        "method": "CALL",
        "path": method,
        "headers": [[name, value] for name, value in metadata],
        "body": message.decode(),
    }
    return json.dumps(seen).encode()


class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda message, context: answer(details.method, message, context))


if __name__ == "__main__":
    server = grpc.server(ThreadPoolExecutor(32), handlers=(Echo(),), options=[("grpc.so_reuseport", 0)])
    host, port = os.environ.get("MLFLOW_ISTIO_HOST", "0.0.0.0"), os.environ.get("MLFLOW_ISTIO_PORT", "8080")
    server.add_insecure_port(f"{host}:{port}")
    server.start()
    server.wait_for_termination()
