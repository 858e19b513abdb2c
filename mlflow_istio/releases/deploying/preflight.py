"""Before a candidate gets traffic: does it take what the stable's callers send, and does it answer?"""

from __future__ import annotations

from mlflow_istio.core.basics.model_card import ModelCard, answer_problem, differences
from mlflow_istio.core.basics.stored import parsed
from mlflow_istio.core.mesh.manifests import runtime_of_deployment
from mlflow_istio.core.runtime.profiles import MLFLOW
from mlflow_istio.errors import ClusterError, InvalidInput, NotFound, StateConflict
from mlflow_istio.ports.models import Models
from mlflow_istio.ports.scoring import Score
from mlflow_istio.releases.context import Context, address_of, deployment_of, deployments_of, pin_headers, versions_of


def preflight(
    context: Context,
    models: Models,
    score: Score,
    name: str,
    *,
    stable: str,
    candidate: str,
    force: bool,
    timeout: float,
) -> tuple[str, ...]:
    """Compare the candidate's signature with the stable's, and replay its input example through its header route.

    Args:
        context: The ports.
        models: What model versions say of themselves.
        score: Sends one request.
        name: The endpoint.
        stable: The stable deployment; one that is not ours has no signature.
        candidate: The candidate.
        force: Whether a different signature is taken.
        timeout: Seconds for the answer to the example.

    Returns:
        Warnings: what could not be checked.

    Raises:
        StateConflict: The signature differs so that callers would fail, or the example isn't answered as promised.
        RegistryError: The registry can't be reached.
    """
    versions = versions_of(deployments_of(context.cluster, name))
    warnings: list[str] = []
    card = models.card(versions[candidate])
    old = ModelCard()
    if versions.get(stable):
        try:
            old = models.card(versions[stable])
        except NotFound as exc:  # a broken stable must not keep its own successor out
            warnings.append(f"the signature of '{stable}' could not be read, so it was not compared ({exc.message})")
    changes = differences(old, card)
    if changes and not force:
        raise StateConflict(
            f"'{candidate}' doesn't take what callers of '{stable}' send: {'; '.join(changes)}. Change the callers first and say "
            "force=true (--force)"
        )
    warnings += [f"signature of '{candidate}': {clause} (forced)" for clause in changes]
    if card.inputs is None:
        warnings.append(f"'{candidate}' has no signature: nothing says whether it takes what '{stable}' takes")
    if runtime_of_deployment(deployment_of(context.cluster, candidate)).body == "none":
        warnings.append(
            f"nobody knows how '{candidate}' is asked, a gRPC service of your own: its health was asked, and nothing else tried"
        )
        return tuple(warnings)
    if card.example is None:
        warnings.append(f"'{candidate}' has no input_example: whether it answers was not tried")
        return tuple(warnings)
    _replay(context, score, name, candidate, card, timeout)
    return tuple(warnings)


def _replay(context: Context, score: Score, name: str, candidate: str, card: ModelCard, timeout: float) -> None:
    context.tell(f"sending the input example to '{candidate}'")
    example = parsed(card.example or "{}", f"the input example of '{candidate}'")
    try:
        answer = score(
            address_of(context.cluster, name, candidate),
            example,
            headers=pin_headers(context.cluster, name, candidate),
            timeout=timeout,
        )
    except (ClusterError, InvalidInput) as exc:
        raise StateConflict(
            f"'{candidate}' fails on its own input example, so it gets no traffic: {exc.message}"
        ) from exc
    mlflow = runtime_of_deployment(deployment_of(context.cluster, candidate)).body == MLFLOW.body
    problem = answer_problem(card, answer) if mlflow else ""  # what others answer, no signature says
    if problem:
        raise StateConflict(
            f"'{candidate}' answers its own input example otherwise than its signature says, so it gets no traffic: {problem}"
        )
