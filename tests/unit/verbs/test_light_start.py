"""What every command pays before its verb begins."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ("kubernetes", "mlflow", "numpy", "pandas", "scipy")


def test_verbs_are_there_before_what_only_some_of_them_need() -> None:
    """scipy alone takes as long to import as all else that a verb such as sweep needs."""
    program = f"import json, sys, mlflow_istio.cli, mlflow_istio.verbs; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == []
