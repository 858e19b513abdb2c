# The image of one model server: MLflow's scoring app behind mlflow_istio.serving, one process, no root.
#
# Built and run by `make node` (tests/node). What it starts is what the other tests start without it,
# `python -m mlflow_istio.serving` with the variables that mlflow_istio/serving/configuration.py lists.
#
#   docker build -f docker/serving.Dockerfile -t mlflow-istio-serving .
#   docker build -f docker/serving.Dockerfile --build-arg MODEL_REQUIREMENTS="scikit-learn==1.7.2 xgboost" ...
#
# Run it with a read-only root file system and two writable mounts: /tmp (the model that MLflow downloads) and
# /var/lib/mlflow-istio (records, and the environments of MLFLOW_ISTIO_ENV_MANAGER=uv). Kubernetes must allow more
# terminationGracePeriodSeconds than the slowest request takes, and needs a preStop pause for the proxies to notice.

ARG PYTHON_VERSION=3.12

FROM python:${PYTHON_VERSION}-slim AS build
WORKDIR /src
COPY setup.py pyproject.toml README.md ./
COPY mlflow_istio mlflow_istio
COPY kfp_components kfp_components
COPY templates templates
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON_VERSION}-slim
ARG MLFLOW_VERSION=3.17.2
# The packages that MLFLOW_ISTIO_ENV_MANAGER=local serves models with: those of the model's requirements.txt.
ARG MODEL_REQUIREMENTS="scikit-learn"

# libgomp1 is what scikit-learn, LightGBM and XGBoost share; bash activates environments.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bash libgomp1 \
    && rm -rf /var/lib/apt/lists/*

# Before the code comes, so that a change of the code makes only the layers after it again.
RUN pip install --no-cache-dir "mlflow==${MLFLOW_VERSION}" hpack prometheus-client uv ${MODEL_REQUIREMENTS}

RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin serving \
    && install --directory --owner serving --group serving /var/lib/mlflow-istio /srv/empty
ENV HOME=/var/lib/mlflow-istio \
    MLFLOW_ENV_ROOT=/var/lib/mlflow-istio/environments \
    MLFLOW_ISTIO_RECORD_DIR=/var/lib/mlflow-istio/records \
    PYTHONUNBUFFERED=1
# --no-deps: the wrapper needs nothing that MLflow does not bring, but hpack (for recorders of gRPC) and prometheus-client.
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --no-deps /wheels/*.whl && rm -rf /wheels
USER 10001:10001
# An empty folder: `python -m` puts the working directory before all packages.
WORKDIR /srv/empty
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "mlflow_istio.serving"]
