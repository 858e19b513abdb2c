# CoreDNS with the plugins that go/coredns/main.go names.
FROM scratch
COPY coredns /coredns
USER 65532:65532
ENTRYPOINT ["/coredns"]
