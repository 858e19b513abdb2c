"""How all steps of a pipeline run: their image, their Secret, and never from a cache.

Where KFP keeps each thing was read in kfp 2.17: ``PipelineTask.__init__`` (caching), ``pipeline_spec_builder.py`` (platform
configuration of steps and of sub-pipelines), ``driver/resolve.go`` of the backend (placeholders).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, components, dsl

import kfp_components
from kfp_components import configure_steps, images, promote_candidate, set_traffic, step_image, use_image
from mlflow_istio import __version__

FOLDER = Path(kfp_components.__file__).parent / "compiled"


@pytest.fixture(autouse=True)
def _no_image_is_chosen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(images.VARIABLE, raising=False)
    yield
    monkeypatch.delenv(images.VARIABLE, raising=False)
    use_image(None)


def compiled(pipeline: Any, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline's specification, and what the platform adds for each executor."""
    compiler.Compiler().compile(pipeline, str(folder / "pipeline.yaml"))
    documents = list(yaml.safe_load_all((folder / "pipeline.yaml").read_text(encoding="utf-8")))
    platform = documents[1] if len(documents) > 1 else {}
    executors = platform.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
    return documents[0], executors


def cached_steps(spec: dict[str, Any]) -> list[str]:
    """Steps that a runner may serve from its cache; a pipeline inside a pipeline runs no step itself."""
    found = spec["components"]
    dags = [spec["root"]["dag"], *(component["dag"] for component in found.values() if "dag" in component)]
    tasks = [task for dag in dags for task in dag["tasks"].values()]
    steps = [task for task in tasks if "executorLabel" in found[task["componentRef"]["name"]]]
    return [task["taskInfo"]["name"] for task in steps if task.get("cachingOptions", {}).get("enableCache")]


def loaded(name: str) -> Any:
    return components.load_component_from_file(str(FOLDER / f"{name}.yaml"))


@pytest.mark.parametrize("name", kfp_components.__all__)
def test_no_step_of_a_compiled_component_is_cached(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    assert "enableCache: false" in text
    assert "enableCache: true" not in text
    assert cached_steps(yaml.safe_load(text)) == []


def test_no_step_of_a_pipeline_that_loads_them_is_cached(tmp_path: Path) -> None:
    """pipelines 11797: an approval of the run before let the next one through."""
    ask, move, go = loaded("wait_for_approval"), loaded("set_traffic"), loaded("promote_candidate")

    @dsl.pipeline(name="from-files")
    def from_files(endpoint: str = "churn"):
        asked = ask(target="istio:/models", endpoint=endpoint, candidate="churn-v2")
        with dsl.If(asked.outputs["approved"] == True):  # noqa: E712
            moved = move(target="istio:/models", endpoint=endpoint, weight=10)
            go(target="istio:/models", endpoint=endpoint, release_id=moved.outputs["release_id"])

    spec, _ = compiled(from_files, tmp_path)
    assert cached_steps(spec) == []
    assert len(spec["deploymentSpec"]["executors"]) == 3


def secrets_of(executor: dict[str, Any]) -> dict[str, str]:
    """Variable to SECRET/KEY."""
    return {
        pair["envVar"]: f"{secret['secretName']}/{pair['secretKey']}"
        for secret in executor.get("secretAsEnv", [])
        for pair in secret["keyToEnv"]
    }


LEDGER = {"MLFLOW_TRACKING_URI": "mlflow/uri", "MLFLOW_TRACKING_PASSWORD": "mlflow/password"}


def test_every_step_gets_the_secret_wherever_it_is(tmp_path: Path) -> None:
    go = loaded("promote_candidate")

    @dsl.component(base_image=step_image(), install_kfp_package=False)
    def of_the_user() -> str:
        return "churn"

    @dsl.pipeline(name="inner")
    def inner(endpoint: str):
        set_traffic(target="istio:/models", endpoint=endpoint, weight=10)

    @dsl.pipeline(name="outer")
    def outer(endpoints: list = ["churn"]):  # noqa: B006
        undo = kfp_components.roll_back_unless_succeeded(
            target="istio:/models", endpoint="churn", release_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER
        )
        with dsl.ExitHandler(undo), dsl.ParallelFor(items=endpoints) as endpoint:
            inner(endpoint=endpoint)
            go(target="istio:/models", endpoint=endpoint)
            promote_candidate(target="istio:/models", endpoint=of_the_user().output)
        for _ in range(2):
            configure_steps(
                secret="mlflow",
                config_map="mesh",
                config_keys={"gateway": "MLFLOW_ISTIO_GATEWAY"},
                pull_secrets=["registry"],
            )

    spec, executors = compiled(outer, tmp_path)
    assert executors.keys() == spec["deploymentSpec"]["executors"].keys()
    assert len(executors) == 5
    for executor in executors.values():
        assert secrets_of(executor) == LEDGER
        assert [each["configMapName"] for each in executor["configMapAsEnv"]] == ["mesh"], (
            "once, though asked for twice"
        )
        assert [each["secretName"] for each in executor["imagePullSecret"]] == ["registry"]

    @dsl.pipeline(name="another")
    def another():
        go(target="istio:/models", endpoint="churn")

    assert compiled(another, tmp_path)[1] == {}, "a loaded component itself stays as it was"


LIMITS = {"cpu_request": "250m", "cpu_limit": "1", "memory_request": "512M", "memory_limit": "2G"}


def test_every_step_may_use_what_is_said_once_wherever_it_is(tmp_path: Path) -> None:
    """KFP's own set_cpu_limit is refused for a component from our YAML, a pipeline of one step; what it writes is the measure."""
    go = loaded("promote_candidate")

    @dsl.pipeline(name="limited")
    def limited():
        undo = loaded("roll_back_unless_succeeded")(target="istio:/models", endpoint="churn", release_id="job-1")
        undo.set_caching_options(False)
        with dsl.ExitHandler(undo):
            from_file = go(target="istio:/models", endpoint="churn")
            with pytest.raises(ValueError, match="set_cpu_limit can only be used on single-step components"):
                from_file.set_cpu_limit("1")
            set_traffic(target="istio:/models", endpoint="churn", weight=10).set_memory_limit("4G")
        for _ in range(2):
            configure_steps(resources=LIMITS)

    spec, _ = compiled(limited, tmp_path)
    found = {
        label: executor["container"]["resources"] for label, executor in spec["deploymentSpec"]["executors"].items()
    }
    usual = found.pop("exec-roll-back-unless-succeeded")
    assert usual == {
        **{"cpuRequest": 0.25, "cpuLimit": 1.0, "memoryRequest": 0.512, "memoryLimit": 2.0},
        **{"resourceCpuRequest": "250m", "resourceCpuLimit": "1"},
        **{"resourceMemoryRequest": "512M", "resourceMemoryLimit": "2G"},
    }
    own = found.pop("exec-set-traffic")
    assert own == {**usual, "memoryLimit": 4.0, "resourceMemoryLimit": "4G"}, "what a step has already it keeps"
    assert list(found.values()) == [usual]
    assert cached_steps(spec) == []

    @dsl.pipeline(name="another-unlimited")
    def another():
        go(target="istio:/models", endpoint="churn")

    (executor,) = compiled(another, tmp_path)[0]["deploymentSpec"]["executors"].values()
    assert "resources" not in executor["container"], "a loaded component itself stays as it was"


def test_what_configures_no_step_is_an_error() -> None:
    with pytest.raises(ValueError, match="no pipeline is being made here"):
        configure_steps()
    with pytest.raises(ValueError, match="ConfigMap 'mesh' needs config_keys"):
        configure_steps(config_map="mesh", tasks=[])
    with pytest.raises(ValueError, match="there is no resource 'gpu': use one of cpu_request, cpu_limit"):
        configure_steps(resources={"gpu": "1"}, tasks=[])
    assert configure_steps(tasks=[], secret=None) == []


@pytest.mark.parametrize("example", sorted((Path(__file__).parents[3] / "examples").glob("*_pipeline.py")), ids=str)
def test_every_example_sets_its_secret_on_every_step(example: Path, tmp_path: Path) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("example", example)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (name,) = (name for name in dir(module) if name.endswith("_pipeline"))
    made, executors = compiled(getattr(module, name), tmp_path)
    assert executors.keys() == made["deploymentSpec"]["executors"].keys()
    assert all(secrets_of(executor) == LEDGER for executor in executors.values())
    assert cached_steps(made) == []


OWN = "registry.example.com:5000/team/mlflow-istio-kfp"


@pytest.mark.parametrize(
    ("variable", "said", "image"),
    [
        (None, None, f"mlflow-istio-kfp:{__version__}"),
        (OWN, None, f"{OWN}:{__version__}"),
        (f"{OWN}:mine", None, f"{OWN}:mine"),
        ("elsewhere", f"{OWN}@sha256:0a", f"{OWN}@sha256:0a"),
    ],
)
def test_one_setting_is_the_image_of_all_components(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str | None, said: str | None, image: str
) -> None:
    if variable is not None:
        monkeypatch.setenv(images.VARIABLE, variable)
    if said is not None:
        assert use_image(said) == image

    @dsl.pipeline(name="images")
    def pipeline():
        set_traffic(target="istio:/models", endpoint="churn", weight=10)
        promote_candidate(target="istio:/models", endpoint="churn")
        promote_candidate(target="istio:/models", endpoint="spam")

    spec, _ = compiled(pipeline, tmp_path)
    used = [executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()]
    assert used == [image] * 3


def test_what_is_no_image_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="use_image is '': give an image"):
        use_image("")
    monkeypatch.setenv(images.VARIABLE, "two words")
    with pytest.raises(ValueError, match="MLFLOW_ISTIO_KFP_IMAGE is 'two words'"):
        step_image()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"options": {"weights": "{{channel}}"}}, r"options\['weights'\] holds the list or dict 'weights'"),
        (
            {"options": {"match": [{"headers": "{{channel}}"}]}},
            r"options\['match'\]\[0\]\['headers'\] holds the list or",
        ),
        ({"reason": "see {{channel}}"}, "reason holds the list or dict 'weights'.*make all of 'reason' one parameter"),
        ({"release_id": f"{dsl.PIPELINE_JOB_ID_PLACEHOLDER}-eu"}, "release_id holds .*pipeline_job_uuid.* inside"),
        ({"options": {"release_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER}}, r"options\['release_id'\] holds .* inside"),
    ],
)
def test_what_kfp_would_not_fill_in_is_refused_in_one_line(arguments: dict[str, Any], words: str) -> None:
    """A list or dict inside another is pasted unescaped, and a placeholder is replaced only where it is the whole parameter."""

    def filled(value: Any, channel: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(inner, channel) for key, inner in value.items()}
        if isinstance(value, list):
            return [filled(inner, channel) for inner in value]
        return channel if value == "{{channel}}" else value.replace("{{channel}}", str(channel))

    with pytest.raises(ValueError, match=f"^set-traffic: {words}") as caught:

        @dsl.pipeline(name="nested")
        def nested(weights: dict):
            set_traffic(target="istio:/models", endpoint="churn", **filled(arguments, weights))

    assert "\n" not in str(caught.value)


def test_numbers_and_texts_of_the_pipeline_may_stand_inside_options(tmp_path: Path) -> None:
    @dsl.pipeline(name="nested")
    def nested(weight: int, header: str, everything: dict):
        set_traffic(target="istio:/models", endpoint="churn", options={"header": header, "weights": {"a": weight}})
        set_traffic(target="istio:/models", endpoint="churn", options=everything, reason=f"header {header}")

    assert compiled(nested, tmp_path)[0]["root"]["dag"]["tasks"].keys() == {"set-traffic", "set-traffic-2"}
