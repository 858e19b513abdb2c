# istiod, as Istio's own image has it: the program and certificates of authorities, nothing else.
ARG PYTHON_VERSION
FROM python:${PYTHON_VERSION}-slim AS base
FROM scratch
COPY --from=base /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY pilot-discovery /usr/local/bin/pilot-discovery
USER 1337:1337
ENTRYPOINT ["/usr/local/bin/pilot-discovery"]
