"""``mlflow-istio demo``: the whole job on this machine, with two real models and real traffic."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from mlflow_istio.calls.loopback import proxies_for
from mlflow_istio.core.matching.probe import VERSION_HEADER
from mlflow_istio.errors import ClusterError, NotReady, masked
from mlflow_istio.showing.tables import a_console, print_history
from mlflow_istio.verbs import Verbs
from mlflow_istio.wiring.connection import home, local_mesh

MODEL = "wine-quality"
TARGET = "istio-local:/demo"
_WORKERS = 4


def run(*, keep: bool, count: int, console: Console | None = None) -> None:
    """Train, register, deploy, canary, promote, roll back; print what was asked for beside what was seen.

    Args:
        keep: Whether to leave the mesh running.
        count: Requests per round.
        console: Where to print.

    Raises:
        MlflowIstioError: A step failed; everything stays as it is, for a look.
    """
    out = console or a_console()
    tracking_uri = os.environ.get("MLFLOW_TRACKING_URI") or _own_registry()
    # Without a tracking server of the user's, a registry of the user's isn't touched either.
    registry_uri = os.environ.get("MLFLOW_REGISTRY_URI") if os.environ.get("MLFLOW_TRACKING_URI") else None
    registry_uri = registry_uri or tracking_uri
    config = {"tracking_uri": tracking_uri, "registry_uri": registry_uri}
    verbs = Verbs(TARGET, warn=lambda line: out.print(f"[yellow]warning: {line}"))

    with _step(out, "training two classifiers on scikit-learn's wine data and registering them"):
        first, second = _train(tracking_uri, registry_uri)
    out.print(
        f"  models:/{MODEL}/{first} (logistic regression), models:/{MODEL}/{second} (support vectors)", highlight=False
    )

    verbs.delete_endpoint("wine", {**config, "force": True})  # left over from a demo that was interrupted
    with _step(out, f"deploying version {first} as 'wine-v{first}': a real model server behind a real Envoy"):
        verbs.create(f"wine-v{first}", f"models:/{MODEL}/{first}", None, "wine", {**config, "reason": "first version"})
    _drive(out, verbs, count, {f"{MODEL}/{first}": 100})

    with _step(out, f"deploying version {second} beside it and opening a canary release at 10%"):
        canary = {**config, "strategy": "canary", "weight": 10, "reason": "a better model"}
        verbs.create(f"wine-v{second}", f"models:/{MODEL}/{second}", None, "wine", canary)
    _drive(out, verbs, count, {f"{MODEL}/{first}": 90, f"{MODEL}/{second}": 10})

    with _step(out, "raising the canary to 50%"):
        verbs.update_endpoint("wine", {**config, "weight": 50, "reason": "no errors at 10%"})
    _drive(out, verbs, count, {f"{MODEL}/{first}": 50, f"{MODEL}/{second}": 50})

    with _step(out, "promoting it: one edit"):
        verbs.update_endpoint("wine", {**config, "action": "promote", "reason": "no errors at 50%"})
    _drive(out, verbs, count, {f"{MODEL}/{second}": 100})

    with _step(out, "rolling back: one edit, after the promotion"):
        verbs.update_endpoint("wine", {**config, "action": "rollback", "reason": "to show that it works"})
    _drive(out, verbs, count, {f"{MODEL}/{first}": 100})

    out.print("\nEvery change is in the MLflow registry:")
    print_history("wine", verbs.history("wine", config), out)
    _finish(out, verbs, keep, tracking_uri)


def _finish(out: Console, verbs: Verbs, keep: bool, tracking_uri: str) -> None:
    out.print(
        f"\nSee it in MLflow: mlflow server --backend-store-uri {masked(tracking_uri)}", highlight=False, soft_wrap=True
    )
    if keep:
        out.print(f"The endpoint is at {verbs.endpoint('wine')['url']}/invocations", highlight=False)
        out.print(f"End it with: mlflow-istio local down --purge -t {TARGET}", highlight=False)
        return
    with _step(out, "taking the mesh down"):
        local_mesh(verbs.target).down(purge=True)


def _own_registry() -> str:
    folder = home() / "demo-registry"
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)  # MLflow puts artifacts below the folder it runs in: not into the user's
    return f"sqlite:///{folder / 'mlflow.db'}"


def _train(tracking_uri: str, registry_uri: str) -> tuple[int, int]:
    """Train and register both models; their version numbers."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")  # advice on logging models, which a demo need not repeat
        try:
            import mlflow
            import mlflow.sklearn
            from sklearn.datasets import load_wine
            from sklearn.linear_model import LogisticRegression
            from sklearn.pipeline import make_pipeline
            from sklearn.preprocessing import StandardScaler
            from sklearn.svm import SVC
        except ImportError as exc:
            raise NotReady(f"the demo needs {exc.name}: pip install 'mlflow-istio[local]'") from exc

        mlflow.set_tracking_uri(tracking_uri)
        mlflow.set_registry_uri(registry_uri)
        mlflow.set_experiment("mlflow-istio-demo")
        features, target = load_wine(return_X_y=True, as_frame=True)
        versions = []
        for model in (
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)),
            make_pipeline(StandardScaler(), SVC()),
        ):
            with mlflow.start_run():
                info = mlflow.sklearn.log_model(
                    model.fit(features, target),
                    name="model",
                    registered_model_name=MODEL,
                    input_example=features.head(2),
                    pip_requirements=["scikit-learn", "pandas"],
                )
            versions.append(int(info.registered_model_version))
        return versions[0], versions[1]


def _drive(out: Console, verbs: Verbs, count: int, asked: Mapping[str, int]) -> None:
    """Send requests and show the split that was seen beside the one that was asked for."""
    import requests

    url = f"{verbs.endpoint('wine')['url']}/invocations"
    body = {"dataframe_split": {"columns": _COLUMNS, "data": [_ROW]}}

    def send(share: int) -> Counter[str]:
        seen: Counter[str] = Counter()
        with requests.Session() as session:
            for _ in range(share):
                answer = session.post(url, json=body, timeout=30, proxies=proxies_for(url))
                if answer.status_code != 200:
                    raise ClusterError(f"{url} answered {answer.status_code}: {answer.text[:200]}")
                seen[answer.headers[VERSION_HEADER]] += 1
                progress.advance(task)
        return seen

    columns = (TextColumn("  sending requests"), BarColumn(), MofNCompleteColumn())
    seen: Counter[str] = Counter()
    with Progress(*columns, console=out, transient=True) as progress:
        task = progress.add_task("", total=count)
        shares = [count // _WORKERS + (1 if worker < count % _WORKERS else 0) for worker in range(_WORKERS)]
        with ThreadPoolExecutor(_WORKERS) as pool:
            for answers in pool.map(send, shares):
                seen.update(answers)
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for heading in ("  version", "asked", "seen", "requests"):
        table.add_column(heading, justify="left" if heading == "  version" else "right")
    for version in sorted({*asked, *seen}):
        table.add_row(
            f"  {version}", f"{asked.get(version, 0)}%", f"{100 * seen[version] / count:.1f}%", str(seen[version])
        )
    out.print(table)


@contextlib.contextmanager
def _step(out: Console, text: str) -> Iterator[None]:
    """A spinner while it lasts, a line when it is done."""
    with out.status(f"{text} ..."):
        yield
    out.print(f"[green]✓[/green] {text}", highlight=False)


_COLUMNS = [
    "alcohol",
    "malic_acid",
    "ash",
    "alcalinity_of_ash",
    "magnesium",
    "total_phenols",
    "flavanoids",
    "nonflavanoid_phenols",
    "proanthocyanins",
    "color_intensity",
    "hue",
    "od280/od315_of_diluted_wines",
    "proline",
]
_ROW = [13.2, 1.78, 2.14, 11.2, 100.0, 2.65, 2.76, 0.26, 1.28, 4.38, 1.05, 3.4, 1050.0]
