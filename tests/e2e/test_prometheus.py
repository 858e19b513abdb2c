"""A real Prometheus as source of metrics, and everything that can go wrong with one."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlflow_istio.adapters.figures.kpis import KpiMetrics
from mlflow_istio.adapters.local.envoy.stats import EDGES_MS
from mlflow_istio.adapters.local.mesh import LocalMesh
from mlflow_istio.adapters.prometheus import PrometheusApi, PrometheusMetrics
from mlflow_istio.core.analysis.history import history_of
from mlflow_istio.core.analysis.measures import ASSIGNMENTS, ERRORS, REQUESTS, kpi_counts
from mlflow_istio.core.release.kpi import Kpi, filled_query
from mlflow_istio.errors import InvalidInput, MetricsError
from tests.contract.metrics_contract import HistoryContract, MetricsContract, Watch, counted
from tests.e2e.mesh_calls import serve
from tests.e2e.test_envoy_metrics import MeshTraffic, base_line
from tests.support.free_ports import free_port
from tests.support.istio_exporter import NAMESPACE
from tests.support.prometheus_server import IstioExporter, PrometheusServer, until

pytestmark = pytest.mark.e2e
BOTH = ("m-v1", "m-v2")
# The user, password and hash of Prometheus' own documentation.
USER, PASSWORD = "admin", "test"
HASH = "$2b$12$hNf2lSsxfm0.i4a.1kVpSOVyBCfIB51VRjgBUyv6kdnyTlgWj81Ay"


class Scraped:
    """A mesh and an exporter, and a Prometheus that scrapes both."""

    def __init__(self, folder: Path) -> None:
        self.exporter = IstioExporter(folder)
        self.mesh = LocalMesh(folder / "mesh", "scraped", pause=0.05)
        self.exporter.start()
        serve(self.mesh, "m", {"m-v1": 100, "m-v2": 0})
        envoy = self.mesh.status().statistics_url.removeprefix("http://")
        self.server = PrometheusServer(folder / "prometheus", {"istio": self.exporter.target, "mesh": envoy})
        self.server.start()

    def stop(self) -> None:
        self.server.stop()
        self.exporter.stop()
        self.mesh.down(purge=True)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    scraped = Scraped(tmp_path_factory.mktemp("scraped"))
    try:
        yield scraped
    finally:
        scraped.stop()


class IstioTraffic:
    """Two deployments as Istio's proxies count them."""

    endpoint = "m"
    deployments = BOTH

    def __init__(self, scraped: Scraped, **options: float) -> None:
        self.scraped = scraped
        scraped.server.start()
        scraped.exporter.start()
        self.metrics = PrometheusMetrics(PrometheusApi(scraped.server.url), namespace=NAMESPACE, **options)

    def serve(self, deployment: str, requests: int, errors: int = 0, mirrored: int = 0) -> None:
        self.scraped.exporter.tell(
            f"/serve?deployment={deployment}&requests={requests}&errors={errors}&mirrored={mirrored}"
        )

    def settle(self) -> None:
        self.scraped.server.settle()

    def restart(self) -> None:
        self.scraped.exporter.stop()
        self.scraped.exporter.start()

    def stop(self) -> None:
        self.scraped.server.stop()


class ScrapedMeshTraffic(MeshTraffic):
    """Two deployments of the local mesh, through Prometheus."""

    def __init__(self, scraped: Scraped) -> None:
        super().__init__(scraped.mesh)
        self.scraped = scraped
        scraped.server.start()
        api = PrometheusApi(scraped.server.url)
        self.metrics = PrometheusMetrics(api, dialect="envoy", latency_edges=EDGES_MS)  # type: ignore[assignment]

    def settle(self) -> None:
        super().settle()
        self.scraped.server.settle()

    def stop(self) -> None:
        self.scraped.server.stop()


class TestIstioSeries(MetricsContract, HistoryContract):
    """The contracts, on Istio's series in a real Prometheus."""

    @pytest.fixture
    def traffic(self, scraped: Scraped) -> IstioTraffic:
        return IstioTraffic(scraped)


class TestScrapedMesh(MetricsContract, HistoryContract):
    """The contract, on the local mesh's own series in a real Prometheus."""

    @pytest.fixture
    def traffic(self, scraped: Scraped) -> ScrapedMeshTraffic:
        return ScrapedMeshTraffic(scraped)


@pytest.fixture
def istio(scraped: Scraped) -> IstioTraffic:
    traffic = IstioTraffic(scraped)
    for deployment in BOTH:
        traffic.serve(deployment, 1)
    traffic.settle()
    return traffic


def test_a_history_of_more_points_than_one_question_may_have_is_asked_for_in_pieces(istio: IstioTraffic) -> None:
    """A real Prometheus refuses more than 11,000 points of a series."""
    istio.serve("m-v1", 5)
    until("the requests", lambda: history_of(istio.metrics.history("m", "m-v1", 60, 1), 1).requests.sum() >= 5)
    for seconds, step in ((40_000, 1.0), (11_000, 0.5), (11_001, 1.0)):
        readings = istio.metrics.history("m", "m-v1", seconds, step)
        assert len(readings) == seconds / step + 1
        assert not readings[0]  # nobody had been asked then
        assert history_of(readings, step).requests.sum() >= 5


def test_a_step_in_which_nothing_was_scraped_is_a_gap(scraped: Scraped) -> None:
    traffic = IstioTraffic(scraped, max_age=2.0)
    traffic.serve("m-v1", 3)
    until("the deployment", lambda: bool(traffic.metrics.history("m", "m-v1", 30, 1)))
    scraped.exporter.tell("/starve")
    try:
        until("its absence", lambda: not traffic.metrics.history("m", "m-v1", 30, 1)[-1])
    finally:
        scraped.exporter.tell("/feed")
    until("its return", lambda: bool(traffic.metrics.history("m", "m-v1", 30, 1)[-1]))
    until("the gap", lambda: bool(history_of(traffic.metrics.history("m", "m-v1", 60, 1), 1).gaps))


def test_mirrored_copies_are_not_among_the_callers_counts(istio: IstioTraffic) -> None:
    watch = Watch(istio)
    watch.look()
    istio.serve("m-v1", 4, mirrored=50)
    assert counted(watch.until(lambda seen: counted(seen, "m-v1", "le/+Inf") >= 4), "m-v1", REQUESTS) == 4


def test_another_namespaces_workload_of_the_same_name_is_not_read(istio: IstioTraffic) -> None:
    elsewhere = PrometheusMetrics(PrometheusApi(istio.scraped.server.url), namespace="elsewhere")
    assert elsewhere.read("m", BOTH) == {}


def test_the_version_label_serves_as_well_as_the_workload(istio: IstioTraffic) -> None:
    by_version = PrometheusMetrics(
        PrometheusApi(istio.scraped.server.url), namespace=NAMESPACE, label="destination_version"
    )
    assert set(by_version.read("m", BOTH)) == set(BOTH)


def test_series_of_the_mesh_tell_what_the_split_assigned(scraped: Scraped) -> None:
    traffic = ScrapedMeshTraffic(scraped)
    traffic.route({"m-v1": 100, "m-v2": 0})
    watch = base_line(traffic)
    traffic.send(6)
    traffic.send(5, headers={"x-mlflow-deployment": "m-v1"})
    # A server scrapes at its own time, and series of one scrape are asked for one after the other: wait for all of them.
    seen = watch.until(lambda seen: min(counted(seen, "m-v1", name) for name in (REQUESTS, ASSIGNMENTS)) >= 6)
    traffic.settle()
    seen = watch.look()
    assert counted(seen, "m-v1", REQUESTS) == counted(seen, "m-v1", ASSIGNMENTS) == 6


def test_a_starved_target_goes_absent_when_its_last_sample_is_too_old(scraped: Scraped) -> None:
    traffic = IstioTraffic(scraped, max_age=2.0)
    traffic.serve("m-v1", 3)
    until("the deployment", lambda: "m-v1" in traffic.metrics.read("m", BOTH))
    scraped.exporter.tell("/starve")
    try:
        until("its absence", lambda: traffic.metrics.read("m", BOTH) == {})
        # An old sample is still there for whoever takes it: its age made it count as absent, not its end.
        patient = PrometheusMetrics(PrometheusApi(scraped.server.url), namespace=NAMESPACE, max_age=300)
        assert "m-v1" in patient.read("m", BOTH)
    finally:
        scraped.exporter.tell("/feed")
    until("its return", lambda: "m-v1" in traffic.metrics.read("m", BOTH))


def kpi(**queries: str) -> Kpi:
    return Kpi(name="conversion", queries=queries)


SELECTORS = {
    "n": 'shop_visits_total{version="$deployment"}',
    "events": 'shop_conversions_total{version="${deployment}"}',
}
EXPRESSIONS = {
    "n": 'sum(shop_visits_total{version="$deployment"})',
    "events": 'shop_conversions_total{version="$deployment"} * 1',
}


@pytest.mark.parametrize("queries", [SELECTORS, EXPRESSIONS], ids=["selectors", "expressions"])
def test_a_kpi_of_the_users_promql_is_counted_beside_the_requests(istio: IstioTraffic, queries: dict[str, str]) -> None:
    api = PrometheusApi(istio.scraped.server.url)
    with_kpi = KpiMetrics(istio.metrics, [kpi(**queries)], prometheus=api, namespace=NAMESPACE)
    watch = Watch(istio)
    watch.metrics = with_kpi
    # An expression has no value while the last scrape failed, as on a machine that has no time for it.
    watch.begin("kpi/conversion/n", "kpi/conversion/events", REQUESTS)
    istio.serve("m-v2", 8, errors=3)
    seen = watch.until(
        lambda seen: counted(seen, "m-v2", "kpi/conversion/n") >= 8 and counted(seen, "m-v2", REQUESTS) >= 8
    )
    found = kpi_counts(seen["m-v2"], "conversion")
    assert found is not None
    assert (found.n, found.events) == (8, 5)


@pytest.mark.parametrize("queries", [SELECTORS, EXPRESSIONS], ids=["selectors", "expressions"])
def test_a_kpi_whose_samples_are_too_old_is_absent(scraped: Scraped, queries: dict[str, str]) -> None:
    traffic = IstioTraffic(scraped)
    traffic.serve("m-v1", 2)
    source = KpiMetrics(None, [kpi(**queries)], prometheus=PrometheusApi(scraped.server.url), max_age=2.0)
    until("the KPI", lambda: "m-v1" in source.read("m", ["m-v1"]))
    scraped.exporter.tell("/starve")
    try:
        until("its absence", lambda: source.read("m", ["m-v1"]) == {})
    finally:
        scraped.exporter.tell("/feed")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ('visits{version="$deployment"', "refused the query"),
        ('"$deployment"', "not one value for each series"),
        ('shop_visits_total{version="$deployment"} * -1', "must give raw counters"),
        ('shop_visits_total{version="$deployment"} * NaN', "must give raw counters"),
    ],
)
def test_a_wrong_query_is_one_line_that_names_it(istio: IstioTraffic, query: str, words: str) -> None:
    api = PrometheusApi(istio.scraped.server.url)
    with pytest.raises(MetricsError, match=words) as caught:
        KpiMetrics(None, [kpi(n=query, events=query)], prometheus=api).read("m", ["m-v1"])
    assert "\n" not in caught.value.message


def test_a_query_whose_parts_contradict_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(InvalidInput, match="every version would get the same count"):
        kpi(n="shop_visits_total", events="shop_conversions_total")


@pytest.fixture(scope="module")
def guarded(scraped: Scraped, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    """A Prometheus that asks for a password."""
    folder = tmp_path_factory.mktemp("guarded") / "prometheus"
    server = PrometheusServer(folder, {}, {USER: HASH}, (USER, PASSWORD))
    server.start()
    yield server
    server.stop()


def test_credentials_come_from_the_environment_and_are_never_shown(
    guarded: PrometheusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MetricsError, match="refuses these credentials .*MLFLOW_ISTIO_PROMETHEUS_TOKEN"):
        PrometheusMetrics(PrometheusApi(guarded.url)).read("m", BOTH)
    monkeypatch.setenv("MLFLOW_ISTIO_PROMETHEUS_USER", USER)
    monkeypatch.setenv("MLFLOW_ISTIO_PROMETHEUS_PASSWORD", "wrong-secret")
    with pytest.raises(MetricsError) as caught:
        PrometheusMetrics(PrometheusApi(guarded.url)).read("m", BOTH)
    assert "wrong-secret" not in str(caught.value)
    monkeypatch.setenv("MLFLOW_ISTIO_PROMETHEUS_PASSWORD", PASSWORD)
    assert PrometheusMetrics(PrometheusApi(guarded.url)).read("m", BOTH) == {}


def test_credentials_in_the_address_are_used_and_never_shown(guarded: PrometheusServer) -> None:
    api = PrometheusApi(guarded.url.replace("http://", f"http://{USER}:{PASSWORD}@"))
    assert PrometheusMetrics(api).read("m", BOTH) == {}
    assert PASSWORD not in api.name.replace("http://", "")


class Answer(http.server.BaseHTTPRequestHandler):
    """Something that is not Prometheus; what it says stands on the server."""

    def do_POST(self) -> None:
        server = self.server
        server.authorization = self.headers.get("Authorization")  # type: ignore[attr-defined]
        if server.silent.wait(server.delay):  # type: ignore[attr-defined]
            return
        body = server.body  # type: ignore[attr-defined]
        self.send_response(server.status)  # type: ignore[attr-defined]
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def impostor(status: int, body: bytes, delay: float = 0.0) -> Iterator[http.server.ThreadingHTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.status, server.body, server.delay = status, body, delay  # type: ignore[attr-defined]
    server.silent, server.authorization = threading.Event(), None  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.silent.set()  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()
        server.server_close()


PARTIAL = b'{"status":"success","warnings":["one store did not answer"],"data":{"resultType":"matrix","result":[]}}'


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, b"<html>Please log in</html>", "not Prometheus' API: check prometheus_url"),
        (404, b"not found", "answered 404 with something that is not Prometheus' API"),
        (503, b'{"status":"error","errorType":"unavailable","error":"starting\\nup"}', "unavailable: starting up"),
        (200, PARTIAL, "only a part of the data"),
        (403, b"", "refuses these credentials"),
    ],
)
def test_what_is_no_answer_is_one_clear_line(status: int, body: bytes, words: str) -> None:
    with impostor(status, body) as server, pytest.raises(MetricsError, match=words) as caught:
        PrometheusMetrics(PrometheusApi(f"http://127.0.0.1:{server.server_port}")).read("m", BOTH)
    assert "\n" not in caught.value.message


def test_a_prometheus_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with impostor(200, PARTIAL, delay=30) as server, pytest.raises(MetricsError, match="did not answer within 0.3 s"):
        PrometheusMetrics(PrometheusApi(f"http://127.0.0.1:{server.server_port}", timeout=0.3)).read("m", BOTH)


def test_a_bearer_token_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_ISTIO_PROMETHEUS_TOKEN", "very-secret")
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with impostor(401, b"") as server, pytest.raises(MetricsError) as caught:
        PrometheusMetrics(PrometheusApi(f"http://127.0.0.1:{server.server_port}")).read("m", BOTH)
    assert server.authorization == "Bearer very-secret"  # type: ignore[attr-defined]
    assert "very-secret" not in str(caught.value)


def test_nobody_at_the_address_is_one_clear_line() -> None:
    with pytest.raises(MetricsError, match="can't be reached .*check prometheus_url"):
        PrometheusMetrics(PrometheusApi(f"http://127.0.0.1:{free_port()}")).read("m", BOTH)


@pytest.mark.parametrize("url", ["prometheus:9090", "ftp://prometheus", "http://", ""])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="prometheus_url"):
        PrometheusApi(url)


def test_errors_are_counted_in_istios_series(istio: IstioTraffic) -> None:
    watch = Watch(istio)
    watch.look()
    istio.serve("m-v2", 5, errors=2)
    seen = watch.until(lambda seen: counted(seen, "m-v2", "le/+Inf") >= 5 and counted(seen, "m-v2", REQUESTS) >= 5)
    assert counted(seen, "m-v2", ERRORS) == 2


def test_every_query_of_the_documentation_is_one_that_prometheus_takes(istio: IstioTraffic) -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    queries = [line for block in re.findall(r"^```promql\n(.*?)^```", page, re.S | re.M) for line in block.splitlines()]
    assert len(queries) >= 8
    api = PrometheusApi(istio.scraped.server.url)
    values = {"deployment": "m-v1", "endpoint": "m", "namespace": NAMESPACE}
    for query in queries:

        def is_answered(
            question: str = filled_query(query, values), *, is_istios: bool = "envoy_" not in query
        ) -> bool:
            # Asked again while the last scrape failed: an expression has no value then.
            return api.evaluate([question], 60) != [[]] or not is_istios

        until(query, is_answered)
