"""Shadows of models that write: answers that real servers recorded, compared by what they say."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow.deployments import get_deploy_client

from mlflow_istio.client.errors import IstioDeploymentError
from tests.support.chat_models import register_chat

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

FOX, BOX = "the quick brown fox jumps over the lazy dog", "the quick brown box jumps over the lazy dog"
COUNT = 60
SETTLED = 0.3
"""Seconds after a shadow's beginning from which requests are compared, with settle=0.2: a quick machine asks all before."""

SCORES = """
def first_letter(stable, candidate):
    return stable[:1] == candidate[:1]

def picky(stable, candidate):
    if stable.rstrip().endswith("7"):
        raise ValueError(f"can't judge {stable[-2:]!r}")
    return 1.0
"""


def talking(own_mesh: str, tmp_path: Path, kind: str, words: str) -> Any:
    """A shadow whose stable says FOX and whose candidate says these words; both record."""
    client = get_deploy_client(own_mesh)
    register_chat(f"sqlite:///{tmp_path / 'mlflow.db'}", "talk", tmp_path, kind, versions=2)
    for version, said in ((1, FOX), (2, words)):
        env = {
            "MLFLOW_ISTIO_RECORD": "1",
            "MLFLOW_ISTIO_RECORD_DIR": str(tmp_path / f"records-{version}"),
            "WORDS": said,
        }
        traffic = {"strategy": "shadow"} if version == 2 else {}
        client.create_deployment(
            f"talk-v{version}", f"models:/talk/{version}", endpoint="talk", config={"env": env, **traffic}
        )
    time.sleep(SETTLED)
    return client


def ask(client: Any, body: str, streams: bool) -> None:
    url = client.get_endpoint("talk")["scoring_url"]
    with requests.Session() as session:
        session.trust_env = False
        for number in range(COUNT):
            said = {body: [{"role": "user", "content": str(number)}], **({"stream": True} if streams else {})}
            answer = session.post(url, json=said, timeout=60)
            assert answer.ok, answer.text


def compared(client: Any, pairs: int = COUNT, **options: Any) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while True:
        found: dict[str, Any] = client.compare("talk", settle=0.2, agreement=0.8, **options)
        if found["figures"]["shadow/pairs"] >= pairs:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("kind", "body", "field", "streamed"),
    [
        ("TALKING_CHAT", "messages", "choices[].message.content", ["choices[].delta.content"]),
        ("TALKING_AGENT", "input", "output[].content[].text", []),
    ],
)
def test_ids_differ_in_each_answer_and_texts_alone_are_compared(
    own_mesh: str, tmp_path: Path, kind: str, body: str, field: str, streamed: list[str]
) -> None:
    client = talking(own_mesh, tmp_path, kind, BOX)
    ask(client, body, streams=False)
    named = compared(client, answers="text", field=field)
    assert named["terms"].endswith(f"field {field}.")
    assert named["verdict"]["word"] == "advance", named
    missing = compared(client, answers="text", field="choices[0].text")
    assert missing["verdict"]["word"] == "hold"
    assert "no field choices[0].text in the stable's answer" in missing["verdict"]["reason"]

    ask(client, body, streams=True)
    alike = compared(client, 2 * COUNT, answers="text")
    assert alike["verdict"]["word"] == "advance", alike
    where = " and ".join(sorted([*streamed, field]))
    assert alike["terms"] == (
        f"Compared as text by scorer 'edit', from 0.8 on two texts agree; field {where} (recognised; 'field' names another)."
    )
    # One sign of 43 is another; in a chat of up to 47, since it says the question, too.
    assert 1 - 1 / 43 - 1e-9 <= alike["figures"]["shadow/similarity"] < 1 - 1 / 48
    by_words = compared(client, answers="text", scorer="tokens", similarity=0.95)
    assert by_words["verdict"]["word"] == "rollback"
    assert "fox" in by_words["most_different"][0]["note"]
    assert compared(client)["verdict"]["word"] == "rollback", "as classes, they differ"

    compared(client, answers="text")
    client.abort("talk")
    page = tmp_path / "report.html"
    words = [sys.executable, "-m", "mlflow_istio.cli", "report", "talk", "-t", own_mesh, "-o", str(page)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Compared as text by scorer" in page.read_text()


def test_a_scorer_by_name_is_the_same_everywhere_and_one_that_is_not_there_changes_nothing(
    own_mesh: str, tmp_path: Path
) -> None:
    client = talking(own_mesh, tmp_path, "TALKING_CHAT", "the rain in Spain")
    ask(client, "messages", streams=False)
    folder = tmp_path / "scores"
    folder.mkdir()
    (folder / "shop_scores.py").write_text(SCORES)

    def command(scorer: str) -> subprocess.CompletedProcess[str]:
        words = [
            "compare",
            "talk",
            "-t",
            own_mesh,
            "--json",
            "-C",
            "answers=text",
            "-C",
            "settle=0.2",
            "-C",
            "agreement=0.8",
        ]
        entry = Path(sys.executable).with_name("mlflow-istio")
        return subprocess.run(
            [str(entry), *words, "-C", f"scorer={scorer}"], cwd=folder, capture_output=True, text=True
        )

    compared(client, answers="text", scorer="edit")
    found = command("shop_scores:first_letter")
    assert found.returncode == 0, found.stderr
    view = json.loads(found.stdout)
    assert view["verdict"]["word"] == "advance"
    assert "by scorer 'shop_scores:first_letter'" in view["terms"]
    from_python = compared(client, answers="text", scorer=lambda stable, candidate: stable[:1] == candidate[:1])
    assert from_python["figures"] == view["figures"]

    picky = json.loads(command("shop_scores:picky").stdout)
    sevens = sum(str(number).endswith("7") for number in range(COUNT))
    assert picky["figures"]["shadow/unscored"] == sevens == 6
    assert picky["figures"]["shadow/compared"] == COUNT - sevens
    (warning,) = picky["warnings"]
    assert warning.startswith(f"scorer 'shop_scores:picky' failed for 6 of {COUNT} pairs: request ")
    assert "ValueError: can't judge" in warning
    assert "ValueError: can't judge" in picky["most_different"][0]["note"]

    for scorer, problem in (
        ("no_scores:f", "there is no module 'no_scores'"),
        ("shop_scores:first", "'shop_scores:first' has no 'first': did you mean 'first_letter'?"),
    ):
        refused = command(scorer)
        assert refused.returncode == 1, refused
        assert refused.stdout == ""
        assert problem in refused.stderr
        assert len(refused.stderr.splitlines()) == 1

    client.abort("talk")
    before = client.get_endpoint("talk"), client.history("talk")
    for scorer in ("no_scores:f", "json:no_function"):
        with pytest.raises(IstioDeploymentError, match="option 'scorer'"):
            client.release(
                "talk", candidate="talk-v2", strategy="shadow", compare={"answers": "text", "scorer": scorer}
            )
    assert (client.get_endpoint("talk"), client.history("talk")) == before, "nothing is half-applied"
