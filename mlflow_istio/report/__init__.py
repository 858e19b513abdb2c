"""A release as one self-contained HTML page, made purely from what the registry holds of it.

May import ports (for their values) and core. Never in here: reading or writing anything; the page is returned as text.
"""

from mlflow_istio.report.data import Comparison, ReportData
from mlflow_istio.report.page import render

__all__ = ["Comparison", "ReportData", "render"]
