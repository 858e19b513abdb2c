"""The verb that tells a release as one page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mlflow_istio.errors import InvalidInput, NotFound
from mlflow_istio.options.base import ReadOptions, parse_options
from mlflow_istio.releases.context import endpoint_of
from mlflow_istio.releases.ledger import catch_up
from mlflow_istio.releases.reporting import gather, keep_report
from mlflow_istio.verbs.base import Base, Config


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


class ReportVerbs(Base):
    """Reports."""

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
        desk = self._session(options).desk
        try:
            endpoint_of(desk.cluster, name)
            late = catch_up(desk, name, publish=False)
        except NotFound:
            late = ()
        data = gather(desk, name, release)
        page, warnings = keep_report(desk, data)
        for warning in (*late, *warnings):
            self._warn(warning)
        made = Report(release=data.release, page=page, warnings=(*late, *warnings))
        if output is not None:
            write_report(made, Path(output))
        return made


def write_report(report: Report, file: Path) -> None:
    """Write the page to a file.

    Raises:
        InvalidInput: It can't be written.
    """
    try:
        file.write_text(report.page, encoding="utf-8")
    except OSError as exc:
        raise InvalidInput(f"the report can't be written to '{file}': {exc.strerror}") from exc


def file_name(endpoint: str, release: str) -> str:
    """A file name for a report, whatever the names hold."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{endpoint}-{release}").strip(".-")[:120] + ".html"
