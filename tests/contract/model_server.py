"""A model server small enough to start in a blink, as a container command, and the objects around it.

It runs on the local mesh and in a pod alike: it needs nothing but Python's standard library.
"""

from __future__ import annotations

from typing import Any

from mlflow_istio.core.basics.objects import API_VERSIONS, Object

SOURCE = """
import http.server, json, os, socket, sys, time

NAME, VERSION, MODE = (os.environ.get(key, "") for key in ("NAME", "VERSION", "MODE"))
print("model server", NAME, VERSION, MODE, flush=True)
if MODE == "crash":
    sys.exit("no such model: " + VERSION)
seen = []


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        status = 200
        if self.path == "/ping":
            status = 503 if MODE == "unready" else 200
        elif self.path == "/seen":
            body = json.dumps(seen).encode()
        elif self.path == "/headers":
            body = json.dumps({**self.headers, ":path": self.path, "pid": os.getpid()}).encode()
        else:
            seen.append(self.headers.get("x-request-id"))
            if MODE == "slow":
                time.sleep(0.2)
            status = 500 if MODE == "broken" or self.path == "/fail" else 200
            body = json.dumps({"deployment": NAME, "version": VERSION, "path": self.path}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("x-mlflow-model-version", VERSION)
        self.send_header("x-mlflow-deployment", NAME)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = answer

    def log_message(self, *arguments):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256


address = (os.environ.get("MLFLOW_ISTIO_HOST", "0.0.0.0"), int(os.environ.get("MLFLOW_ISTIO_PORT", "8080")))
Server(address, Handler).serve_forever()
"""


def deployment(
    endpoint: str, name: str, *, version: str = "m/1", replicas: int = 1, mode: str = "", **env: str
) -> Object:
    """A Deployment of the small server.

    Args:
        endpoint: The endpoint it stands behind.
        name: Its name, and that of its subset.
        version: What it calls itself.
        replicas: How many.
        mode: ``crash`` at start, ``unready`` for ever, ``slow`` to answer, ``broken`` (500), or none of these.
        env: Further variables.
    """
    pod_labels = {"app": endpoint, "version": name}
    variables = {"NAME": name, "VERSION": version, "MODE": mode, **env}
    return _object(
        "Deployment",
        name,
        {
            "replicas": replicas,
            "selector": {"matchLabels": dict(pod_labels)},
            "template": {
                "metadata": {"labels": pod_labels},
                "spec": {
                    "containers": [
                        {
                            "name": "model-server",
                            "image": "python:3.11-slim",
                            "command": ["python", "-c", SOURCE],
                            "env": [{"name": key, "value": value} for key, value in variables.items()],
                            "ports": [{"name": "http", "containerPort": 8080}],
                            "readinessProbe": {"httpGet": {"path": "/ping", "port": 8080}, "periodSeconds": 1},
                        }
                    ],
                },
            },
        },
    )


def service(endpoint: str) -> Object:
    """The Service of an endpoint."""
    port = {"name": "http", "port": 80, "targetPort": 8080, "appProtocol": "http"}
    return _object("Service", endpoint, {"selector": {"app": endpoint}, "ports": [port]})


def destination_rule(endpoint: str, *names: str, **policy: Any) -> Object:
    """The DestinationRule of an endpoint with a subset for each name."""
    spec: dict[str, Any] = {
        "host": endpoint,
        "subsets": [{"name": name, "labels": {"version": name}} for name in names],
    }
    return _object("DestinationRule", endpoint, {**spec, **({"trafficPolicy": policy} if policy else {})})


def virtual_service(endpoint: str, change_id: str, weights: dict[str, int], *routes: Object, **split: Any) -> Object:
    """The VirtualService of an endpoint as our verbs write it: probe, pins, further routes, split.

    Args:
        endpoint: Its name.
        change_id: What the probe route answers.
        weights: Weight of each subset.
        routes: Routes between the pins and the split.
        split: Further members of the split route, such as ``mirrors``.
    """
    prefix = f"mlflow-istio.{endpoint}"
    http: list[Object] = [
        {
            "name": f"{prefix}.probe",
            "match": [{"headers": {"x-mlflow-istio-probe": {"exact": "1"}}}],
            "directResponse": {"status": 200, "body": {"string": change_id}},
        }
    ]
    for name in weights:
        http.append(
            {
                "name": f"{prefix}.pin.{name}",
                "match": [{"headers": {"x-mlflow-deployment": {"exact": name}}}],
                "route": [{"destination": {"host": endpoint, "subset": name}}],
            }
        )
    destinations = [
        {"destination": {"host": endpoint, "subset": name}, "weight": weight} for name, weight in weights.items()
    ]
    http += [*routes, {"name": f"{prefix}.split", "route": destinations, **split}]
    return _object("VirtualService", endpoint, {"hosts": [endpoint], "http": http})


def with_spec(spec: Object) -> Any:
    """An edit that gives an object the spec of another, and creates it when it is absent."""

    def change(obj: Object | None) -> Object:
        return spec if obj is None else {**obj, "spec": spec["spec"]}

    return change


def _object(kind: str, name: str, spec: Object) -> Object:
    return {"apiVersion": API_VERSIONS[kind], "kind": kind, "metadata": {"name": name}, "spec": spec}
