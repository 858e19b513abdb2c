"""A release as one self-contained HTML page, made purely from what the registry holds of it."""

from mlflow_istio.report.data import Comparison, ReportData
from mlflow_istio.report.page import render

__all__ = ["Comparison", "ReportData", "render"]
