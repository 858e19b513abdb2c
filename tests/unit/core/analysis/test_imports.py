"""The command's start-up doesn't pay for the analysis."""

import subprocess
import sys


def test_the_package_itself_imports_neither_numpy_nor_scipy():
    code = "import sys, mlflow_istio.core.analysis; print(sorted({'numpy', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
