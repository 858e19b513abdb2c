# Sidecar, gateway and istio-init. Its Envoy is the plain one: Istio's own build, with its filters for telemetry, is in no registry
# that can be had here.
ARG PYTHON_VERSION
FROM python:${PYTHON_VERSION}-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends iptables \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 1337 --create-home istio-proxy \
    && install --directory --owner istio-proxy --group istio-proxy /etc/istio/proxy /var/lib/istio/data
COPY envoy_bootstrap.json /var/lib/istio/envoy/envoy_bootstrap_tmpl.json
COPY envoy pilot-agent /usr/local/bin/
WORKDIR /
ENTRYPOINT ["/usr/local/bin/pilot-agent"]
