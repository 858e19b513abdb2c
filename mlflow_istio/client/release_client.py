"""What the client can do beyond MLflow's own interface: releases, routing policy, and looking into both."""

# What binds a method to its verb replaces the body, which is left out.
# mypy: disable-error-code="empty-body"

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlflow_istio.client.binding import binding_of, shown
from mlflow_istio.client.display import EndpointView, History, ReportPage
from mlflow_istio.client.errors import mapped

if TYPE_CHECKING:
    from mlflow_istio.verbs import Verbs


class ReleaseClient:
    """The methods of ``IstioDeploymentClient`` that MLflow's base class does not have."""

    _verbs: Verbs

    @binding_of("update_endpoint", returns=shown, action="promote")
    def promote(self, endpoint: str, candidate: str | None = None, **options: Any) -> dict[str, Any]:
        """Make the candidate stable with all the traffic, in one edit."""

    @binding_of("update_endpoint", returns=shown, action="rollback")
    def rollback(self, endpoint: str, to: int | str | None = None, **options: Any) -> dict[str, Any]:
        """Return to what users had before the release, in one edit; also after a promotion.

        Args:
            endpoint: The endpoint.
            to: Sequence number or id of an earlier change (``history``): its traffic comes back, with all that it needs.
            options: Further options of ``update_endpoint``.
        """

    @binding_of("update_endpoint", returns=shown, action="abort")
    def abort(self, endpoint: str, **options: Any) -> dict[str, Any]:
        """Return all traffic to stable and close the release."""

    @binding_of("release", returns=shown)
    def release(self, endpoint: str, model_uri: str | None = None, **options: Any) -> dict[str, Any]:
        """Release a version step by step, and return when it is promoted, rolled back or undecided.

        Args:
            endpoint: The endpoint; it has a stable already.
            model_uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``; None with ``candidate``.
            options: Options of ``release``, such as ``steps="5,25,50"``.

        Returns:
            The endpoint, with ``outcome``, ``verdict`` (word and reason) and ``release_id``.
        """

    @binding_of("resume_release", returns=shown)
    def resume_release(self, endpoint: str, **options: Any) -> dict[str, Any]:
        """Go on with a release whose process is gone, or that is paused, to its end; returns what ``release`` does."""

    @binding_of("rehearse")
    def rehearse(self, endpoint: str, **options: Any) -> dict[str, Any]:
        """How a release would go on what the endpoint's stable has answered: of the same version, and of worse ones.

        Args:
            endpoint: The endpoint.
            options: Options of ``rehearse``, such as ``steps="5,25,50"``.

        Returns:
            ``cases``, each with the shares that were promoted and rolled back and the seconds that took; ``history``, ``phase`` and
            ``block``, what they rest on.
        """

    @binding_of("approve")
    def approve(self, endpoint: str) -> str:
        """Let a release past the gate it waits at; the gate."""

    @binding_of("reject")
    def reject(self, endpoint: str) -> str:
        """Refuse the gate a release waits at; the gate."""

    @binding_of("update_endpoint", returns=shown, action="pause")
    def pause(self, endpoint: str) -> dict[str, Any]:
        """Stop the release from advancing by itself."""

    @binding_of("update_endpoint", returns=shown, action="resume")
    def resume(self, endpoint: str) -> dict[str, Any]:
        """Let a paused release go on."""

    @binding_of("policy", returns=shown)
    def policy(self, endpoint: str, **settings: Any) -> dict[str, Any]:
        """Set what routes do besides splitting: ``timeout``, ``retries``, ``headers``, ``rewrite``, ``connection_pool``, ...

        Example:
            >>> client.policy("churn", timeout="2s", retries={"attempts": 2, "retryOn": "5xx"})
            >>> client.policy("churn", subset="churn-v2", headers={"response": {"set": {"x-arm": "b"}}})
            >>> client.policy("churn", timeout="none")
        """

    @binding_of("route", returns=shown)
    def route(self, endpoint: str, to: str | None = None, match: Any = None, **options: Any) -> dict[str, Any]:
        """Send matching requests to one deployment whatever the split says; ``remove="NAME"`` takes a route away.

        Example:
            >>> client.route("churn", to="churn-v2", match={"headers": {"x-user": "staff"}}, name="staff")
        """

    @binding_of("fault", returns=shown)
    def fault(self, endpoint: str, **options: Any) -> dict[str, Any]:
        """Put a ``delay`` or ``abort`` into live traffic until its ``ttl`` is over; ``end=True`` takes it away now."""

    @binding_of("chaos")
    def chaos(self, endpoint: str, **options: Any) -> dict[str, Any]:
        """Inject a ``delay`` or ``abort`` for a ``duration``, take it away again, and report what callers saw."""

    @binding_of("pins", returns=shown)
    def pins(self, endpoint: str, pins: str | None = None, **options: Any) -> dict[str, Any]:
        """Say who reaches one version by its header, or change it: ``guarded``, ``new`` (another key) or ``open``.

        Example:
            >>> client.pins("churn", show=True)["pin_headers"]["churn-v2"]
            >>> client.pins("churn", "new")
        """

    @binding_of("sweep")
    def sweep(self, **options: Any) -> list[dict[str, str]]:
        """End what is over: faults, kept versions, stale cookies."""

    @binding_of("endpoint", returns=EndpointView)
    def status(self, endpoint: str) -> dict[str, Any]:
        """The same as ``get_endpoint``."""

    @mapped
    def history(self, endpoint: str) -> History:
        """Every routing change of an endpoint, oldest first, from the registry: a list with a ``plot()``."""
        return History(self._verbs.history(endpoint), endpoint)

    @mapped
    def report(self, endpoint: str, release: str | None = None, output: str | None = None) -> ReportPage:
        """A release told as one HTML page, which a notebook shows; it is kept with the release's run, too.

        Args:
            endpoint: The endpoint.
            release: Id of the release; the open one, else the last.
            output: File to write it to as well.
        """
        made = self._verbs.report(endpoint, release, output=output)
        return ReportPage(made.page, made.release)

    @binding_of("analyse")
    def analyse(self, endpoint: str, **options: Any) -> dict[str, Any]:
        """Look once at an open A/B/n release: every arm with its interval, and the outcome so far.

        Args:
            endpoint: The endpoint.
            options: Options of ``analyse``; ``kpi`` may be a callable from a deployment's name to (n, events) or (n, sum, sum of
                squares) so far.
        """

    @binding_of("declare", returns=shown)
    def declare(self, endpoint: str, winner: str | None = None, **options: Any) -> dict[str, Any]:
        """Give the winner of an A/B/n release all the traffic; refused with the reason while there is none."""

    @binding_of("compare")
    def compare(self, endpoint: str, **options: Any) -> dict[str, Any]:
        """Compare the answers of an open shadow release with stable's: verdict, figures, most different requests."""

    @binding_of("doctor")
    def doctor(self, endpoint: str | None = None, fix: bool = False) -> dict[str, Any]:
        """What is wrong with an endpoint (or with all), each with the command that mends it; ``fix`` mends what is safe."""

    @binding_of("explain_route")
    def explain_route(self, endpoint: str | None = None, **options: Any) -> dict[str, Any]:
        """Which route and version answers a request, and why, without sending it.

        Args:
            endpoint: The endpoint; with ``file``, the VirtualService.
            options: ``path``, ``method``, ``headers``, ``query``, ``cookies``, ``user``, ``host``, ``port``, ``scheme``; or
                ``file``, a YAML file that holds the VirtualService.
        """

    @binding_of("assign")
    def assign(self, endpoint: str, user_id: str) -> dict[str, str]:
        """The headers that send this user to their arm of the open A/B release, the same in every process."""
