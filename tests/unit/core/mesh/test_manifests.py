"""Values are data, whatever they hold; a template that yields something unfit is refused with a line that names it."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from typing import Any

import pytest

from mlflow_istio.core.basics.model_version import ModelVersion
from mlflow_istio.core.basics.objects import API_VERSIONS, Object
from mlflow_istio.core.mesh.manifests import TEMPLATES as FILES
from mlflow_istio.core.mesh.manifests import (
    DeploymentValues,
    deployment_manifest,
    destination_rule_manifest,
    service_manifest,
    virtual_service_manifest,
)
from mlflow_istio.core.runtime.profiles import RUNTIMES
from mlflow_istio.errors import InvalidInput
from tests.support.endpoint_values import TEMPLATES

VALUES = DeploymentValues(
    name="churn-v2",
    endpoint="churn",
    model=ModelVersion(model="churn", version=2),
    image="registry.example/serving:1",
    replicas=2,
    env={"A": "1"},
)
HOSTILE = [
    '"quoted"',
    "'single'",
    "line\nbreak: true\n---\nkind: Pod",
    "carriage\r\nreturn",
    "{{ 7 * 7 }}{% raw %}{# c #}",
    "&anchor *alias !!python/object:os.system",
    "key: value # comment",
    "tab\tand \x00 null \x1b escape \x7f delete \x85 next line",
    "\u2028line \u2029paragraph \ufeff mark \ufffe \uffff",
    "astral 😀 \U0001d4b3 \U0010ffff",
    "-",
    "- item",
    "{a: [b]}",
    "true",
    "null",
    "~",
    "0123",
    "1e3",
    "2024-01-01",
    "<<: *x",
    "\\u0041 \\ \\\\",
    "</script>",
    "",
    " lead and trail ",
    "%TAG ! x",
    "x" * 2000,
]


def structure(obj: Any) -> Any:
    """The shape of a document: mappings with their keys, lists with their lengths, and no values."""
    if isinstance(obj, dict):
        return {key: structure(value) for key, value in obj.items()}
    if isinstance(obj, list):
        return [structure(value) for value in obj]
    return type(obj).__name__


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_value_is_data_in_every_field_of_a_deployment(text: str) -> None:
    model = ModelVersion(model=f"m{text}", version=2, alias=f"a{text}")
    values = replace(VALUES, model=model, image=text, env={"A": text}, env_manager=text, flavor=text)
    obj = deployment_manifest(TEMPLATES["Deployment"], values)
    usual = replace(VALUES, model=ModelVersion(model="m", version=2, alias="a"))
    assert structure(obj) == structure(deployment_manifest(TEMPLATES["Deployment"], usual))
    (container,) = obj["spec"]["template"]["spec"]["containers"]
    env = {entry["name"]: entry["value"] for entry in container["env"]}
    assert container["image"] == env["A"] == env["MLFLOW_ISTIO_ENV_MANAGER"] == text
    assert env["MLFLOW_ISTIO_MODEL_URI"] == f"models:/m{text}/2"
    annotations = obj["metadata"]["annotations"]
    assert annotations["mlflow-istio.org/model-version"] == f"m{text}/2"
    assert annotations["mlflow-istio.org/model-alias"] == f"a{text}"
    assert annotations["mlflow-istio.org/flavor"] == text


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_host_or_gateway_is_data(text: str) -> None:
    obj = virtual_service_manifest(TEMPLATES["VirtualService"], "churn", hosts=(f"h{text}",), gateways=(text,))
    assert obj["spec"] == {"hosts": [f"h{text}"], "gateways": [text]}


def test_a_name_of_any_environment_variable_is_data() -> None:
    env = {text: "x" for text in HOSTILE if len(text) < 1000}
    obj = deployment_manifest(TEMPLATES["Deployment"], replace(VALUES, env=env))
    found = {entry["name"] for entry in obj["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert set(env) <= found


def test_nothing_handed_in_is_changed_even_by_a_template_that_tries() -> None:
    env = {"A": "1"}
    kept = copy.deepcopy(env)
    with pytest.raises(InvalidInput, match=r"template deployment.yaml.j2: .*unsafe"):
        deployment_manifest("{{ labels.update({'version': 'x'}) }}", replace(VALUES, env=env))
    assert env == kept


# What our own templates yield


def every_manifest() -> list[Object]:
    return [
        deployment_manifest(TEMPLATES["Deployment"], VALUES),
        service_manifest(TEMPLATES["Service"], "churn"),
        destination_rule_manifest(TEMPLATES["DestinationRule"], "churn"),
        virtual_service_manifest(TEMPLATES["VirtualService"], "churn"),
    ]


@pytest.mark.parametrize("obj", every_manifest(), ids=lambda obj: obj["kind"])
def test_each_object_has_its_kind_its_name_and_who_owns_it(obj: Object) -> None:
    assert obj["apiVersion"] == API_VERSIONS[obj["kind"]]
    assert obj["metadata"]["name"] == ("churn-v2" if obj["kind"] == "Deployment" else "churn")
    assert obj["metadata"]["labels"]["mlflow-istio.org/endpoint"] == "churn"
    assert obj["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "mlflow-istio"
    assert set(FILES) == set(API_VERSIONS)


def test_pods_carry_what_istios_metrics_and_the_subset_need() -> None:
    spec = deployment_manifest(TEMPLATES["Deployment"], VALUES)["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert (labels["app"], labels["version"]) == ("churn", "churn-v2")
    assert spec["selector"]["matchLabels"] == {"app": "churn", "version": "churn-v2"}
    assert service_manifest(TEMPLATES["Service"], "churn")["spec"]["selector"] == {"app": "churn"}


def test_a_pod_serves_the_pinned_version_never_an_alias() -> None:
    values = replace(VALUES, model=ModelVersion(model="churn", version=2, alias="champion"))
    obj = deployment_manifest(TEMPLATES["Deployment"], values)
    env = {entry["name"]: entry["value"] for entry in obj["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert env["MLFLOW_ISTIO_MODEL_URI"] == "models:/churn/2"


def test_what_the_model_server_needs_wins_over_the_users_environment() -> None:
    obj = deployment_manifest(TEMPLATES["Deployment"], replace(VALUES, env={"MLFLOW_ISTIO_PORT": "1", "B": "2"}))
    env = obj["spec"]["template"]["spec"]["containers"][0]["env"]
    assert [entry["value"] for entry in env if entry["name"] == "MLFLOW_ISTIO_PORT"] == ["8080"]
    assert {"name": "B", "value": "2"} in env


def test_a_server_that_is_told_where_to_listen_is_reached_at_its_pods_address() -> None:
    for runtime, address in ((RUNTIMES["triton"], ["0.0.0.0"]), (RUNTIMES["container"], [])):
        obj = deployment_manifest(TEMPLATES["Deployment"], replace(VALUES, runtime=runtime, image="triton"))
        env = obj["spec"]["template"]["spec"]["containers"][0]["env"]
        assert [entry["value"] for entry in env if entry["name"] == "MLFLOW_ISTIO_HOST"] == address


def test_a_services_port_says_that_it_is_http() -> None:
    (port,) = service_manifest(TEMPLATES["Service"], "churn", port=81, target_port=82)["spec"]["ports"]
    assert port == {"name": "http", "port": 81, "targetPort": 82, "appProtocol": "http"}


@pytest.mark.parametrize(
    ("hosts", "gateways", "spec"),
    [
        ((), (), {"hosts": ["churn"]}),
        (("a", "b"), ("ns/gw",), {"hosts": ["a", "b"], "gateways": ["ns/gw"]}),
    ],
)
def test_hosts_are_the_endpoint_unless_named(hosts: tuple[str, ...], gateways: tuple[str, ...], spec: Object) -> None:
    assert virtual_service_manifest(TEMPLATES["VirtualService"], "churn", hosts, gateways)["spec"] == spec


# What a user's template may not yield

GOOD_RULE = """\
kind: DestinationRule
apiVersion: networking.istio.io/v1
metadata: {name: {{ name }}, labels: {{ labels }}}
spec: {host: {{ endpoint }}, trafficPolicy: {{ {"a": [1, 2.5, none, true]} }}}
"""


def test_a_users_template_may_say_more() -> None:
    obj = destination_rule_manifest(GOOD_RULE, "churn")
    assert obj["spec"] == {"host": "churn", "trafficPolicy": {"a": [1, 2.5, None, True]}}
    joined = destination_rule_manifest(GOOD_RULE + 'more: {{ name ~ "-b" }}\njson: {{ name | tojson }}\n', "churn")
    assert (joined["more"], joined["json"]) == ("churn-b", "churn")


BAD_TEMPLATES = [
    ("{{ nope }}", "'nope' is undefined"),
    ("a: b\n{{ name", r"unexpected end of template.*\(line 2\)"),
    ("{% if %}", r"\(line 1\)"),
    ("{{ name | nofilter }}", r"No filter named 'nofilter'. \(line 1\)"),
    ("{{ 1 / 0 }}", "division by zero"),
    ("{{ name.missing }}", "'str object' has no attribute 'missing'"),
    ("{{ [1][5] }}", "no element 5"),
    ("{{ 'nan' | float }}", "nan"),
    ("{{ name + 1 }}", "concatenate"),
    ("{{ '%d' % name }}", "%d format"),
    ("{{ range }}", "not JSON serializable"),
    ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ("{% include 'x' %}", "no loader"),
    ("a: [", "the result is no YAML"),
    ('name: "{{ name }}"', "is no YAML .*write {{ expressions }} without quotes"),
    ("\tx: 1", "the result is no YAML"),
    ("a: 2024-13-45", "the result is no YAML"),
    ("a: !!python/object:os.system x", "the result is no YAML"),
    ("- 1", "must be one YAML object, not list"),
    ("text", "must be one YAML object, not str"),
    ("", "must be one YAML object, not 0 documents"),
    ("a: 1\n---\nb: 2", "must be one YAML object, not 2 documents"),
    ("a: &x [*x]", "a value that JSON does not have"),
    ("a: .nan", "a value that JSON does not have"),
    ("a: 2024-01-01", "a value that JSON does not have .*: put quotes around it"),
    ("kind: Service", "must have kind DestinationRule and an apiVersion such as networking.istio.io/v1"),
    ("kind: DestinationRule", "an apiVersion"),
    ("kind: DestinationRule\napiVersion: v1", "metadata.name must be 'churn'"),
    ("kind: DestinationRule\napiVersion: v1\nmetadata: [1]", "metadata.name must be 'churn'"),
    ("kind: DestinationRule\napiVersion: v1\nmetadata: {name: '{{ name }}'}", "metadata.name must be 'churn'"),
    ("kind: DestinationRule\napiVersion: v1\nmetadata: {name: churn}", "there must be a spec"),
    (GOOD_RULE.replace("{{ labels }}", "[a]"), "metadata.labels must hold text only"),
    (GOOD_RULE.replace("{{ labels }}", "{tier: 1}"), "metadata.labels must hold text only: put quotes"),
    (GOOD_RULE.replace("{{ labels }}", "{tier: a}"), "metadata.labels must have mlflow-istio.org/endpoint: churn"),
    (GOOD_RULE.replace("labels:", "annotations: {a: 1}, labels:"), "metadata.annotations must hold text only"),
    (GOOD_RULE.replace("{{ endpoint }}", "other"), "spec.host must be 'churn'"),
]


@pytest.mark.parametrize(("template", "words"), BAD_TEMPLATES)
def test_a_bad_template_is_refused_in_one_line_that_names_it(template: str, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        destination_rule_manifest(template, "churn")
    assert caught.value.message.startswith("template destination_rule.yaml.j2: ")
    assert re.search(words, caught.value.message), caught.value.message
    assert "\n" not in caught.value.message


def changed(kind: str, old: str, new: str) -> str:
    assert old in TEMPLATES[kind]
    return TEMPLATES[kind].replace(old, new)


BAD_OBJECTS = [
    ("Deployment", "labels: {{ pod_labels }}", "labels: {a: b}", "spec.template.metadata.labels must have app: churn"),
    ("Deployment", "matchLabels: {{ selector }}", "matchLabels: {}", "spec.selector.matchLabels must select"),
    ("Deployment", "matchLabels: {{ selector }}", "matchLabels: {x: y}", "spec.selector.matchLabels must select"),
    ("Deployment", "matchLabels: {{ selector }}", "matchLabels: [x]", "spec.selector.matchLabels must hold text only"),
    (
        "Deployment",
        "annotations: {{ annotations }}",
        "annotations: {}",
        "metadata.annotations must have mlflow-istio.org/mod",
    ),
    ("Deployment", "  template:", "  other:", "spec.template.metadata.labels must have"),
    ("Deployment", "      containers:", "      initContainers:", "spec.template.spec.containers must name the model"),
    ("Service", "  ports:", "  noPorts:", "spec.ports must name a port"),
    ("VirtualService", "hosts: {{ hosts }}", "hosts: []", "spec.hosts must name a host"),
    (
        "VirtualService",
        "hosts: {{ hosts }}",
        "hosts: {{ hosts }}\n  http: []",
        "spec.http is written by the strategies",
    ),
]


@pytest.mark.parametrize(("kind", "old", "new", "words"), BAD_OBJECTS)
def test_an_object_that_would_not_work_is_refused_before_anybody_uses_it(
    kind: str, old: str, new: str, words: str
) -> None:
    makers = {
        "Deployment": lambda text: deployment_manifest(text, VALUES),
        "Service": lambda text: service_manifest(text, "churn"),
        "VirtualService": lambda text: virtual_service_manifest(text, "churn"),
    }
    with pytest.raises(InvalidInput, match=f"template {FILES[kind]}: {re.escape(words)}"):
        makers[kind](changed(kind, old, new))
