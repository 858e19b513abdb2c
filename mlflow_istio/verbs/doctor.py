"""The verb that looks endpoints over and mends what is safe to mend."""

from __future__ import annotations

from mlflow_istio.core.inspection.diagnosis import INFO, Finding
from mlflow_istio.options.base import DryRunOptions, parse_options
from mlflow_istio.releases.deploying.mending import mend
from mlflow_istio.releases.reading import views
from mlflow_istio.releases.reading.doctor import examine
from mlflow_istio.verbs.base import Base, Config, refuse_dry_run


class DoctorVerbs(Base):
    """What is wrong, and what mends it."""

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
        desk = self._session(options).desk
        findings = examine(desk, endpoint)
        mended = mend(desk, findings) if fix else []
        if mended:
            findings = examine(desk, endpoint)
        return {
            "healthy": all(finding.severity == INFO for finding in findings),
            "findings": [self._finding_view(finding) for finding in findings],
            "mended": [{**self._finding_view(one.finding), "problem": one.problem} for one in mended],
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
