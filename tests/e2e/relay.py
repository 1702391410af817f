"""A way from the host into a cluster whose NetworkPolicies let pods alone ask a gateway: a pod that passes bytes on.

Each connection of a client is one of the pod's to the Service, and ends as that one ends: nothing is retried here, so
whatever goes wrong between a client in the cluster and the gateway is seen by the client on the host.
"""

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from installation import GATEWAY_IMAGE
from operator_process import Kubectl, eventually
from pods import a_pod, run

POD = "traffic"
PORT = 8080
IN_A_ROW = 20
"""So many connections must come through, each to a gateway of the Service's choice, before any is counted."""

PASSES_ON = """
import asyncio, contextlib, sys

async def pump(reader, writer):
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()

async def each(reader, writer):
    try:
        there_reader, there_writer = await asyncio.open_connection(sys.argv[1], int(sys.argv[2]))
    except OSError:
        writer.close()
        return
    await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))

async def main():
    async with await asyncio.start_server(each, "0.0.0.0", 8080, backlog=512) as server:
        await server.serve_forever()

asyncio.run(main())
"""


@contextmanager
def relayed(kubectl: Kubectl, service: str, port: int, *, node: str) -> Iterator[str]:
    """The base URL, on this host, of a Service that pods of the namespace may reach. The pod stays on `node`."""
    # By address: the cluster's one DNS pod may move while clients ask, which says nothing about what they ask.
    address = kubectl.get("service", service)["spec"]["clusterIP"]
    pod = a_pod(POD, node=node)
    pod["spec"]["containers"][0] |= {
        "image": GATEWAY_IMAGE,
        "command": ["python", "-c", PASSES_ON, address, str(port)],
        "args": [],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
    }
    addresses = run(kubectl, pod)
    base_url = f"http://{addresses[POD]}:{PORT}/v1"
    try:
        # Nodes hear of a new pod one by one, and until then their policies refuse it.
        eventually("all gateways let the new pod in", lambda: all(is_answered(base_url) for _ in range(IN_A_ROW)))
        yield base_url
    finally:
        kubectl("delete", "pod", POD, "--timeout=60s")


def is_answered(base_url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{base_url}/models", timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
