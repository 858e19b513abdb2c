# The image of the mlflow-istio command, for CronJobs and Jobs (deploy/sweep-cronjob.yaml): the package with what it requires, no
# model, no root. The serving image has no Kubernetes client and can't run it, nor should a pod with a model's code be able to.
#
# Built and run by `make node` (tests/node); the unit tests run each shipped command with these packages only.
#
#   docker build -f docker/command.Dockerfile -t mlflow-istio:0.1.0 .

ARG PYTHON_VERSION=3.12

# The package without its code: what it requires is installed before the code comes, so that a change of the code (or of the tools'
# settings in pyproject.toml) makes only the layers after it again.
FROM python:${PYTHON_VERSION}-slim AS requirements
WORKDIR /src
COPY setup.py ./
RUN printf '[build-system]\nrequires = ["setuptools>=77"]\nbuild-backend = "setuptools.build_meta"\n' > pyproject.toml \
    && mkdir templates && touch README.md && pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON_VERSION}-slim AS build
WORKDIR /src
COPY setup.py pyproject.toml README.md ./
COPY mlflow_istio mlflow_istio
COPY kfp_components kfp_components
COPY templates templates
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON_VERSION}-slim
COPY --from=requirements /wheels /wheels
# grpc: endpoints that speak it are released by these commands, too.
RUN pip install --no-cache-dir "$(ls /wheels/*.whl)[grpc]" && rm -rf /wheels
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin command && install --directory /srv/empty
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --no-deps --force-reinstall /wheels/*.whl && rm -rf /wheels
ENV HOME=/tmp \
    PYTHONUNBUFFERED=1
USER 10001:10001
# An empty folder: `python -m` puts the working directory before all packages.
WORKDIR /srv/empty
ENTRYPOINT ["mlflow-istio"]
