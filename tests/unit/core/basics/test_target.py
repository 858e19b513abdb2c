"""Target URIs: which cluster, which context, which namespace or mesh."""

from __future__ import annotations

import pytest

from mlflow_istio.core.basics.target import Target, parse_target
from mlflow_istio.errors import InvalidInput

EKS = "arn:aws:eks:eu-west-1:123:cluster/prod"


@pytest.mark.parametrize(
    ("uri", "target"),
    [
        ("istio", Target(kind="istio")),
        ("istio:/prod", Target(kind="istio", place="prod")),
        ("istio:/prod/", Target(kind="istio", place="prod")),
        (f"istio:/{'n' * 63}", Target(kind="istio", place="n" * 63)),
        ("istio://minikube", Target(kind="istio", context="minikube")),
        ("istio://minikube/prod", Target(kind="istio", context="minikube", place="prod")),
        ("istio://arn%3Aaws%3Aeks%3Aeu-west-1%3A123%3Acluster%2Fprod/x", Target(kind="istio", context=EKS, place="x")),
        ("istio-local", Target(kind="istio-local", place="default")),
        ("istio-local:", Target(kind="istio-local", place="default")),
        ("istio-local:/demo", Target(kind="istio-local", place="demo")),
    ],
)
def test_a_target_names_a_cluster_and_a_place_in_it(uri: str, target: Target) -> None:
    assert parse_target(uri) == target


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("istio_local", "unknown target 'istio_local': did you mean 'istio-local'"),
        ("", "unknown target ''"),
        ("sagemaker:/x", "unknown target 'sagemaker:/x'.*known: istio, istio-local"),
        ("istio-local://context/mesh", "can't be read: use istio,"),
        ("istio-local:demo", "can't be read"),
        ("istio:///x", "can't be read"),
        ("istio:/a/b", "can't be read"),
        ("istio-local:/My Mesh", "mesh name 'My Mesh' is not a DNS label"),
        ("istio:/Prod", "namespace 'Prod' is not a DNS label"),
    ],
)
def test_any_other_target_is_refused_with_the_forms_there_are(uri: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        parse_target(uri)
