# The image of every pipeline step: this package with KFP, and nothing else; its tag is the package's version.
#
# Built and imported from by `make node` (tests/node). What a step runs in it is what the other tests run in a process,
# `python -m kfp.dsl.executor_main` on a component whose body imports kfp_components.
#
#   docker build -f docker/kfp.Dockerfile -t REGISTRY/mlflow-istio-kfp:0.1.0 .
#
# A pipeline that trains models builds on it: FROM mlflow-istio-kfp, plus the libraries of its own steps.

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
COPY requirements/all.txt /requirements.txt
COPY --from=requirements /wheels /wheels
# The lock file pins, with hashes, what the package and its extras [kfp] and [grpc] need; constraints keep the rest of it out.
RUN sed -e '/^ *--hash=/d' -e 's/ *\\$//' /requirements.txt > /constraints.txt \
    && pip install --no-cache-dir --constraint /constraints.txt "$(ls /wheels/*.whl)[kfp,grpc]" \
    && rm -rf /wheels /requirements.txt /constraints.txt

RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin steps
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --no-deps --force-reinstall /wheels/*.whl && rm -rf /wheels
USER 10001:10001
ENV PYTHONUNBUFFERED=1
WORKDIR /home/steps
