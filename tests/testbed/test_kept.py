"""What a pod's volume is mounted over, and what stays visible all the same: in real mount namespaces, without a cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.testbed import launcher
from tests.testbed.kubelet import enter, image


@pytest.mark.parametrize(
    ("kept", "links"),
    [
        ("clone", {}),
        ("a clone/with spaces", {}),
        ("link", {"link": "real"}),
        ("deep/link/code", {"deep/link": "../other", "other": "elsewhere"}),
        ("link", {"link": "{outside}"}),
        ("chain", {"chain": "{root}/next", "next": "last link", "last link": "{outside}"}),
    ],
)
def test_what_is_kept_can_be_read_where_it_was_and_only_there(tmp_path: Path, kept: str, links: dict[str, str]) -> None:
    hidden, outside = tmp_path / "hidden", tmp_path / "outside"
    outside.mkdir()
    for link, target in links.items():
        (hidden / link).parent.mkdir(parents=True, exist_ok=True)
        (hidden / link).symlink_to(target.format(root=hidden, outside=outside))
    folder = hidden / kept
    Path(os.path.realpath(folder)).mkdir(parents=True, exist_ok=True)
    (folder / "code").write_text("ours", encoding="utf-8")
    (hidden / "secret").touch()

    script = 'cat "$1/code" && ! touch "$1/new" 2>/dev/null && test ! -e "$2/secret" && touch "$2/written"'
    done = _in_a_pod(tmp_path, ["sh", "-c", script, "sh", str(folder), str(hidden)], over=hidden, kept=[str(folder)])

    assert (done.returncode, done.stdout) == (0, "ours"), done.stderr
    assert (tmp_path / "volume" / "written").exists()
    assert not (hidden / "written").exists()


def test_a_single_file_is_kept_and_nothing_beside_it(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for name in ("packages.zip", "beside"):
        (hidden / name).write_text(name, encoding="utf-8")

    done = _in_a_pod(tmp_path, ["ls", str(hidden)], over=hidden, kept=[str(hidden / "packages.zip")])

    assert (done.returncode, done.stdout) == (0, "packages.zip\n"), done.stderr


def test_a_volume_inside_another_is_seen_there_though_the_outer_one_hides_where_it_comes_from(tmp_path: Path) -> None:
    inner = tmp_path / "hidden" / "inner"
    inner.mkdir(parents=True)
    (inner / "token").write_text("secret", encoding="utf-8")

    done = _in_a_pod(
        tmp_path,
        ["cat", str(tmp_path / "hidden/run/token")],
        over=tmp_path / "hidden",
        kept=[],
        more=[{"source": str(inner), "path": str(tmp_path / "hidden/run"), "read_only": True}],
    )

    assert (done.returncode, done.stdout) == (0, "secret"), done.stderr


def test_a_virtual_environment_works_behind_links_and_spaces_in_a_hidden_folder(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "python").symlink_to(sys.base_prefix)
    environment = hidden / "a clone" / ".venv"
    subprocess.run([hidden / "python/bin/python3", "-m", "venv", "--without-pip", environment], check=True)
    script = "from tests.testbed.kubelet import image; import json; print(json.dumps(image.paths()))"
    program = str(environment / "bin" / "python")
    listed = subprocess.run(
        [program, "-c", script], cwd=image.REPOSITORY, text=True, stdout=subprocess.PIPE, check=True
    )

    done = _in_a_pod(
        tmp_path, [program, "-c", "import sys; print(sys.prefix)"], over=hidden, kept=json.loads(listed.stdout)
    )

    assert (done.returncode, done.stdout.strip()) == (0, str(environment)), done.stderr


def _in_a_pod(
    folder: Path, argv: list[str], *, over: Path, kept: list[str], more: Sequence[dict[str, object]] = ()
) -> subprocess.CompletedProcess[str]:
    """Runs a program as the pod runner does, with a volume over a folder, and more of them inside."""
    (folder / "volume").mkdir()
    (folder / "scratch").mkdir()
    task = {
        "argv": argv,
        "network": "/proc/self/ns/net",
        "directory": "/",
        "mounts": [{"source": str(folder / "volume"), "path": str(over), "read_only": False}, *more],
        "kept": kept,
        "read_only": True,
        "scratch": str(folder / "scratch"),
    }
    program = [sys.executable, "-I", "-S", str(enter.__file__), json.dumps(task)]
    return subprocess.run([*launcher.unshare_command(), "--", *program], text=True, capture_output=True, check=False)
