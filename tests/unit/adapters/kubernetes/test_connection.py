"""A kubeconfig that can't be used is told in one line, before anything is asked of any cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mlflow_istio.adapters.kubernetes import connect
from mlflow_istio.core.basics.target import parse_target
from mlflow_istio.errors import ClusterError, InvalidInput, MlflowIstioError
from mlflow_istio.verbs import Verbs

_CONTEXTS = ("prod", "arn:aws:eks:eu-1:1:cluster/dev")


def config(server: str = "https://127.0.0.1:1", **user: Any) -> dict[str, Any]:
    """A kubeconfig with two contexts."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "me", "user": {"token": "t", **user}}],
        "contexts": [
            {"name": name, "context": {"cluster": "c", "user": "me", **({"namespace": "models"} if not i else {})}}
            for i, name in enumerate(_CONTEXTS)
        ],
        "current-context": "prod",
    }


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that KUBECONFIG names; not there yet."""
    path = tmp_path / "config"
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    return path


@pytest.mark.parametrize(
    ("target", "namespace"),
    [
        ("istio", "models"),
        ("istio:/other", "other"),
        ("istio://prod", "models"),
        ("istio://prod/other", "other"),
        ("istio://arn%3Aaws%3Aeks%3Aeu-1%3A1%3Acluster%2Fdev", "default"),
        ("istio://arn%3Aaws%3Aeks%3Aeu-1%3A1%3Acluster%2Fdev/other", "other"),
    ],
)
def test_context_and_namespace_come_from_the_target_then_from_the_kubeconfig(
    kubeconfig: Path, target: str, namespace: str
) -> None:
    kubeconfig.write_text(yaml.safe_dump(config()))
    cluster = connect(parse_target(target))
    assert cluster.scope == namespace
    cluster.close()


def test_without_a_kubeconfig_the_file_that_was_looked_for_is_named(kubeconfig: Path) -> None:
    with pytest.raises(ClusterError, match=f"no kubeconfig at {kubeconfig}.*set KUBECONFIG"):
        connect(parse_target("istio"))


def test_an_unknown_context_names_the_nearest(kubeconfig: Path) -> None:
    kubeconfig.write_text(yaml.safe_dump(config()))
    with pytest.raises(InvalidInput, match="no context 'prd': did you mean 'prod'"):
        connect(parse_target("istio://prd/models"))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "just text",
        "",
        yaml.safe_dump({**config(), "current-context": ""}),
        yaml.safe_dump({**config(), "clusters": [{"name": "c", "cluster": {}}]}),
        yaml.safe_dump(config(**{"client-certificate": "/nowhere/cert.pem", "client-key": "/nowhere/key.pem"})),
    ],
    ids=["no-yaml", "no-object", "empty", "no-current-context", "no-server", "no-certificate-file"],
)
def test_a_damaged_kubeconfig_is_one_error_that_names_the_file(kubeconfig: Path, text: str) -> None:
    kubeconfig.write_text(text)
    with pytest.raises(MlflowIstioError, match=str(kubeconfig)) as caught:
        connect(parse_target("istio"))
    assert "\n" not in str(caught.value)


def test_a_pod_without_a_service_account_is_told_so(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    with pytest.raises(ClusterError, match="no service account to use.*automountServiceAccountToken"):
        connect(parse_target("istio"))


def test_an_api_server_that_is_not_there_is_named_with_its_address(kubeconfig: Path) -> None:
    kubeconfig.write_text(yaml.safe_dump(config()))
    cluster = connect(parse_target("istio"))
    cluster._caller._patience = 0.1
    with pytest.raises(
        ClusterError, match=r"API server at https://127\.0\.0\.1:1 can't be reached .*refused"
    ) as caught:
        cluster.list("VirtualService", {})
    assert "\n" not in str(caught.value)
    cluster.close()


def test_the_local_target_and_the_help_do_not_import_the_kubernetes_client() -> None:
    import subprocess
    import sys

    code = (
        "import sys\n"
        "import mlflow_istio, mlflow_istio.cli, mlflow_istio.verbs\n"
        "mlflow_istio.target_help()\n"
        "from mlflow_istio.verbs import Verbs\n"
        "Verbs('istio-local:/none').endpoints()\n"
        "sys.exit('kubernetes' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert Verbs("istio").target.kind == "istio"
