"""Ports for servers of the tests, which other test runs on this machine do not meet."""

from __future__ import annotations

from mlflow_istio.adapters.local.free_ports import port_source

# Not port 0, closed and used again: the system gives such a port to any outgoing connection. Ours are below those, begin at
# random, and none is given twice by one process.
free_port = port_source(())
