"""A real validating webhook with words of its own, for as long as a test wants it: somebody's policy in front of the API server."""

from __future__ import annotations

import base64
import datetime
import http.server
import ipaddress
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kubernetes import client

from tests.control_plane.namespaces import admin
from tests.testbed.client import wait_for
from tests.testbed.network import BRIDGE_ADDRESS


@contextmanager
def freeze(namespace: str, resource: tuple[str, str], words: str, folder: Path) -> Iterator[list[str]]:
    """Let a webhook refuse every update of a resource in a namespace.

    Args:
        namespace: The namespace.
        resource: API group and plural.
        words: What the webhook says.
        folder: For its certificate.

    Yields:
        The names of what it refused, as it goes.
    """
    refused: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["content-length"])))
            request = review["request"]
            refused.append(request["name"])
            answer = {"uid": request["uid"], "allowed": False, "status": {"message": words}}
            body = json.dumps({**review, "request": None, "response": answer}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Keeps the tests' output clean."""

    certificate = _certificate(folder)
    server = http.server.ThreadingHTTPServer((BRIDGE_ADDRESS, 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    group, plural = resource
    name = f"freeze-{namespace}"
    hook = {
        "name": "freeze.example.com",
        "clientConfig": {
            "url": f"https://{BRIDGE_ADDRESS}:{server.server_address[1]}/",
            "caBundle": base64.b64encode(certificate.read_bytes()).decode(),
        },
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "rules": [{"operations": ["UPDATE"], "apiGroups": [group], "apiVersions": ["*"], "resources": [plural]}],
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    with admin() as api:
        admission = client.AdmissionregistrationV1Api(api)
        admission.create_validating_webhook_configuration({"metadata": {"name": name}, "webhooks": [hook]})
        try:
            yield refused
        finally:
            admission.delete_validating_webhook_configuration(name)
            server.shutdown()
            server.server_close()
            thread.join()


def wait_until_frozen(namespace: str, group: str, plural: str, name: str, *, frozen: bool) -> None:
    """Wait until the API server asks the webhook, or has forgotten it: it takes a new configuration over in a moment."""
    with admin() as api:
        custom = client.CustomObjectsApi(api)

        def refuses() -> bool:
            try:
                custom.patch_namespaced_custom_object(
                    group, "v1", namespace, plural, name, {"metadata": {"annotations": {"asked": "yes"}}}
                )
            except client.ApiException as exc:
                if exc.status is None or exc.status < 400:
                    raise
                return True
            return False

        wait_for("the webhook to be asked" if frozen else "the webhook to be gone", lambda: refuses() is frozen)


def _certificate(folder: Path) -> Path:
    """A key and a self-signed certificate for the testbed's bridge, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "freeze")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(BRIDGE_ADDRESS))]), False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "freeze.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return path
