"""The verbs that move no traffic: views, history, assignment, prediction, explanation, export, report, and doctor."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mlflow_istio.core.basics.objects import Object
from mlflow_istio.core.basics.stored import from_json
from mlflow_istio.core.basics.yaml_text import as_yaml
from mlflow_istio.core.endpoint.assignment import assignment_headers
from mlflow_istio.core.endpoint.deadlines import Deadline, due
from mlflow_istio.core.inspection.diagnosis import INFO, Finding
from mlflow_istio.errors import InvalidInput, NotFound, StateConflict
from mlflow_istio.options.base import DryRunOptions, ReadOptions, parse_options
from mlflow_istio.ports.cluster import Address
from mlflow_istio.releases.context import address_of, endpoint_of, find_virtual_service, pin_headers
from mlflow_istio.releases.deploying.mending import mend
from mlflow_istio.releases.ledger import flush_outbox
from mlflow_istio.releases.reading import export, views
from mlflow_istio.releases.reading.doctor import examine
from mlflow_istio.releases.reading.explain import Question, explain_objects, explain_route
from mlflow_istio.releases.reporting import gather, keep_report
from mlflow_istio.verbs.base import Base, Config, refuse_dry_run


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A release told as one page.

    Attributes:
        release: Id of the release.
        page: Self-contained HTML.
        warnings: What did not go as hoped, one line each.
    """

    release: str
    page: str
    warnings: tuple[str, ...] = ()


class ReadingVerbs(Base):
    """What there is, what happened, what a model answers and why, and what is wrong."""

    def endpoint(self, name: str) -> views.View:
        """One endpoint; see ``releases.views``. What of it is over by now is ended first."""
        view = views.endpoint_view(self._read().cluster, name)
        return views.endpoint_view(self._read().cluster, name) if self._enforced([view]) else view

    def endpoints(self) -> list[views.View]:
        """All endpoints, by name."""
        rows = views.endpoint_views(self._read().cluster)
        return views.endpoint_views(self._read().cluster) if self._enforced(rows) else rows

    def _enforced(self, rows: list[views.View]) -> bool:
        """End what is over on these endpoints; whether there was anything."""
        now = datetime.now(timezone.utc)
        over = [
            view["name"]
            for view in rows
            if due((from_json(Deadline, deadline) for deadline in view.get("deadlines", ())), now)
        ]
        if not over:
            return False  # a look must not pay for MLflow
        context = self._urgent_session(parse_options(ReadOptions, {}, cluster=self.target.kind)).context
        for name in over:
            context.enforce(context, name)
        return True

    def deployment(self, name: str, endpoint: str | None = None) -> views.View:
        """One deployment."""
        return views.deployment_view(self._read().cluster, name, endpoint)

    def deployments(self, endpoint: str | None = None) -> list[views.View]:
        """All deployments, or an endpoint's."""
        return views.deployment_views(self._read().cluster, endpoint)

    def history(self, name: str, config: Config | None = None) -> list[views.View]:
        """Every routing change of an endpoint that the registry has, after recording what it did not have yet."""
        options = parse_options(ReadOptions, config, cluster=self.target.kind)
        context = self._session(options).context
        if find_virtual_service(context.cluster, name) is not None:
            try:
                warnings = flush_outbox(context, name, publish=False)
            except (
                InvalidInput,
                NotFound,
                StateConflict,
            ) as exc:  # damaged: what is recorded can be shown all the same
                warnings = (exc.message,)
            for warning in warnings:
                self._warn(warning)
        changes = context.registry.history(context.scope, name)
        if not changes:
            endpoint_of(context.cluster, name)  # says which endpoints there are
        return views.history_views(changes)

    def version_tag(self, label: str, key: str) -> str | None:
        """A tag of the model version ``MODEL/VERSION``, such as a person's approval; None when it does not have it.

        Raises:
            NotFound: There is no such version.
            RegistryError: The registry can't be reached.
        """
        return self._read().runs.tag(label, key)

    def last_figures(self, name: str, release_id: str) -> dict[str, float]:
        """The newest point of every metric of a release's run; empty while it has no change recorded in one.

        Raises:
            RegistryError: The tracking server can't be reached.
        """
        place = self._read()
        changes = place.registry.history(place.scope or place.cluster.scope, name)
        run = next((change.run for change in changes if change.release == release_id and change.run), None)
        return {key: points[-1].value for key, points in place.runs.figures(run).items()} if run else {}

    def assign(self, name: str, user_id: str) -> dict[str, str]:
        """The headers that send a user to the arm of the open A/B release.

        Raises:
            StateConflict: No A/B release is open.
        """
        return assignment_headers(endpoint_of(self._read().cluster, name), user_id)

    def predict(
        self,
        payload: Any,
        *,
        name: str | None = None,
        endpoint: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> dict[str, Any]:
        """Score through the endpoint's split, or through one deployment's header route.

        Raises:
            InvalidInput: Neither or both of name and endpoint, or an input the model refuses.
            ClusterError: Nothing answered.
        """
        from mlflow_istio.calls.scoring import score

        address, sent = self._way_of(name, endpoint, headers)
        return score(address, payload, headers=sent, timeout=timeout)

    def predict_stream(
        self,
        payload: Any,
        *,
        name: str | None = None,
        endpoint: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> Iterator[Any]:
        """Score as ``predict`` does, with the answer's chunks as they come; the timeout is for each of them.

        Raises:
            InvalidInput: Neither or both of name and endpoint, an input the model refuses, or a server that can't stream.
            ClusterError: Nothing answered; also while the chunks are read.
        """
        from mlflow_istio.calls.streaming import score_stream

        address, sent = self._way_of(name, endpoint, headers)
        return score_stream(address, payload, headers=sent, timeout=timeout)

    def _way_of(
        self, name: str | None, endpoint: str | None, headers: Mapping[str, str] | None
    ) -> tuple[Address, Mapping[str, str]]:
        """Where a deployment, or an endpoint, is asked, and with which headers."""
        _check_headers(headers)
        if name is not None and endpoint is not None:
            raise InvalidInput(
                f"give either the deployment '{name}', which answers whatever the split says, or the endpoint '{endpoint}', "
                "not both"
            )
        cluster = self._read().cluster
        if name is not None:
            endpoint_name = self.deployment(name)["endpoint"]
            return address_of(cluster, endpoint_name, name), {
                **(headers or {}),
                **pin_headers(cluster, endpoint_name, name),
            }
        if endpoint is None:
            raise InvalidInput("say which: a deployment's name, or an endpoint")
        return address_of(cluster, endpoint), headers or {}

    def explain_route(
        self,
        endpoint: str | None,
        *,
        path: str | None = None,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        cookies: Mapping[str, str] | None = None,
        user: str | None = None,
        host: str | None = None,
        port: int | None = None,
        scheme: str = "http",
        gateway: str | None = None,
        file: str | None = None,
    ) -> views.View:
        """Which route and version answers a request, and why; see ``releases.explaining``.

        Raises:
            InvalidInput: Neither an endpoint nor a file is given, or one of them or the request can't be right.
            NotFound: There is no such endpoint.
            StateConflict: A user is named, but no A/B release is open.
        """
        question = Question(
            path=path,
            method=method,
            headers=headers or {},
            query=query or {},
            cookies=cookies or {},
            user=user,
            authority=host,
            port=port,
            scheme=scheme,
            gateway=gateway,
        )
        if file is not None:
            return explain_objects(_objects_in(file), endpoint, question)
        if endpoint is None:
            raise InvalidInput("say which endpoint, or give a file that holds a VirtualService")
        return explain_route(self._read().cluster, endpoint, question)

    def export(self, endpoint: str, *, with_traffic: bool = True, argocd: bool = False) -> str:
        """An endpoint's objects as YAML for Git, or with ``argocd`` what an Application has to leave alone.

        Raises:
            NotFound: There is no such endpoint.
            InvalidInput: Options that don't go together, or routes that are not ours to export.
        """
        cluster = self._read().cluster
        if not argocd:
            return as_yaml(*export.exported(cluster, endpoint, with_traffic=with_traffic))
        if not with_traffic:
            raise InvalidInput(
                "give either --argocd or --without-traffic: without traffic there is nothing to leave alone"
            )
        return as_yaml(export.argocd(cluster, endpoint))

    def report(
        self, name: str, release: str | None = None, config: Config | None = None, *, output: str | None = None
    ) -> Report:
        """Make a release's report, and keep it as artifact ``report.html`` of the release's run.

        Args:
            name: The endpoint; it may be gone as long as the registry has its history.
            release: Id of the release; None: the open one, else the last.
            config: Options of reading verbs.
            output: File to write the page to as well.

        Raises:
            NotFound: There is no such endpoint, or no such release of it.
            InvalidInput: The file can't be written.
        """
        options = parse_options(ReadOptions, config, cluster=self.target.kind)
        context = self._session(options).context
        try:
            endpoint_of(context.cluster, name)
            late = flush_outbox(context, name, publish=False)
        except NotFound:
            late = ()
        data = gather(context, name, release)
        page, warnings = keep_report(context, data)
        for warning in (*late, *warnings):
            self._warn(warning)
        made = Report(release=data.release, page=page, warnings=(*late, *warnings))
        if output is not None:
            write_report(made, Path(output))
        return made

    def doctor(self, endpoint: str | None = None, *, fix: bool = False, config: Config | None = None) -> views.View:
        """Look an endpoint (or all) over; see ``releases.doctor``.

        Args:
            endpoint: The endpoint; None: all, and those that only the registry still knows.
            fix: Whether to mend what does not change what users get.
            config: Options of reading verbs.

        Returns:
            ``healthy``; ``findings`` that are left, the worst first; ``mended``, each with its ``problem`` ("" if it was).

        Raises:
            NotFound: There is no such endpoint, and the registry never knew it.
        """
        options = parse_options(DryRunOptions, config, cluster=self.target.kind)
        if fix:
            refuse_dry_run(options, "fix", "which mends: doctor without it changes nothing")
        context = self._session(options).context
        findings = examine(context, endpoint)
        mended = mend(context, findings) if fix else []
        if mended:
            findings = examine(context, endpoint)
        return {
            "healthy": all(finding.severity == INFO for finding in findings),
            "findings": [self._finding_view(finding) for finding in findings],
            "mended": [
                {**self._finding_view(mended_finding.finding), "problem": mended_finding.problem}
                for mended_finding in mended
            ],
        }

    def _finding_view(self, finding: Finding) -> views.View:
        on_this_machine = self.target.kind == "istio-local"
        up = "mlflow-istio local up -t {target}" if on_this_machine else "kubectl get pods -A -l istio=ingressgateway"
        return {
            "endpoint": finding.endpoint,
            "code": finding.code,
            "severity": finding.severity,
            "text": finding.text,
            "command": finding.command.replace("{up}", up).replace("{target}", self.target_uri),
            "safe": finding.safe,
        }


def _check_headers(headers: Any) -> None:
    """Refuse headers that are no names and texts.

    Raises:
        InvalidInput: They are not.
    """
    pairs = headers.items() if isinstance(headers, Mapping) else ()
    if headers is not None and not (
        isinstance(headers, Mapping) and all(isinstance(text, str) for pair in pairs for text in pair)
    ):
        raise InvalidInput(f"'headers' must be names with texts, not {repr(headers)[:40]}")


def _objects_in(path: str) -> list[Object]:
    """The Kubernetes objects of a YAML file, those of lists included."""
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            documents = list(yaml.load_all(file, _as_json_has_it(yaml)))
        documents = json.loads(json.dumps(documents))  # what stands in two places is two things, and names are texts
    except OSError as exc:
        raise InvalidInput(f"file '{path}' can't be read: {exc.strerror}") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise InvalidInput(f"file '{path}' is no YAML: {' '.join(str(exc).split())}") from exc
    except (ValueError, TypeError, RecursionError) as exc:
        raise InvalidInput(f"file '{path}' holds what no object can: {' '.join(str(exc).split())}") from exc
    objects: list[Object] = []
    for number, document in enumerate(documents, start=1):
        where = f"file '{path}'" if len(documents) == 1 else f"file '{path}', document {number}"
        objects += _objects_of(document, where)
    return objects


def _objects_of(document: Any, where: str) -> list[Object]:
    """The objects of one document; an empty one has none."""
    if document is None:
        return []
    if not isinstance(document, dict):
        kind = "a list" if isinstance(document, list) else repr(document)[:40]
        raise InvalidInput(
            f"{where} must be an object with kind, metadata and spec, not {kind}: put each object into a document of its own"
        )
    items = document.get("items", [document])
    if items is None:
        return []
    if not isinstance(items, list):
        raise InvalidInput(f"{where}: items must be a list, not {repr(items)[:40]}")
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise InvalidInput(f"{where}: items[{index}] must be an object, not {json.dumps(item)[:40]}")
    return items


def _as_json_has_it(yaml: Any) -> Any:
    """A reader of YAML that takes dates for texts, as kubectl does."""

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Knows no times."""

    resolvers = yaml.SafeLoader.yaml_implicit_resolvers.items()
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if not tag.endswith(":timestamp")]
        for first, known in resolvers
    }
    return Loader


def write_report(report: Report, file: Path) -> None:
    """Write the page to a file.

    Raises:
        InvalidInput: It can't be written.
    """
    try:
        file.write_text(report.page, encoding="utf-8")
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else exc
        raise InvalidInput(f"the report can't be written to '{file}': {why}") from exc


def file_name(endpoint: str, release: str) -> str:
    """A file name for a report, whatever the names hold."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{endpoint}-{release}").strip(".-")[:120] + ".html"
