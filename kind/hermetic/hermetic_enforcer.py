"""Enforces NetworkPolicies on a cluster's nodes: watches, has the rules computed, loads them into every node.

A program, not a module. It reads everything at the start and after each change anew from what its watches have told it,
so it keeps no state of its own. Programs that enforce policies with nothing but nftables are not among the modules that
can be pinned here; this one knows the API of networking.k8s.io/v1 and no more: no AdminNetworkPolicy, no IPv6.

    python hermetic_enforcer.py PORT AUTHORITY CERTIFICATE KEY NAME=PID...
"""

import http.client
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # it runs isolated

from hermetic_api import Api
from hermetic_pki import Pair
from hermetic_policies import ruleset

WATCHED = {
    "pods": "/api/v1/pods",
    "namespaces": "/api/v1/namespaces",
    "policies": "/apis/networking.k8s.io/v1/networkpolicies",
}
SETTLE_SECONDS = 0.02
"""A rollout changes many pods in a moment; they become one change of rules."""
RETRY_SECONDS = 1.0

Objects = Mapping[str, dict[str, Any]]
Change = tuple[str, Objects]


def watch(api: Api, kind: str, changes: "queue.Queue[Change]") -> None:
    """Tells every state of one kind, for ever: a broken watch begins with a fresh list."""
    while True:
        try:
            listed = api.request("GET", WATCHED[kind]).json()
            objects = {item["metadata"]["uid"]: item for item in listed["items"]}
            changes.put((kind, dict(objects)))
            version = listed["metadata"]["resourceVersion"]
            for event in api.watch(WATCHED[kind], version):
                if event["type"] == "ERROR":
                    break  # the version is too old
                uid = event["object"]["metadata"]["uid"]
                if event["type"] == "DELETED":
                    objects.pop(uid, None)
                else:
                    objects[uid] = event["object"]
                changes.put((kind, dict(objects)))
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            print(f"{kind}: {error!r}", flush=True)
            time.sleep(RETRY_SECONDS)


def enforce(nodes: Mapping[str, int], changes: "queue.Queue[Change]") -> None:
    """Loads the rules whenever they change."""
    state: dict[str, Objects] = {}
    loaded: dict[str, str] = {}
    while True:
        kind, objects = changes.get()
        state[kind] = objects
        time.sleep(SETTLE_SECONDS)
        while not changes.empty():
            kind, objects = changes.get()
            state[kind] = objects
        if len(state) < len(WATCHED):
            continue
        rules = ruleset(*(list(state[name].values()) for name in WATCHED))
        for name, pid in nodes.items():
            if loaded.get(name) != rules and load(name, pid, rules):
                loaded[name] = rules


def load(name: str, pid: int, rules: str) -> bool:
    """Whether node `name` took the rules; a node that is gone takes none, and the others go on."""
    command = ["nsenter", f"--target={pid}", "--net", "--", "nft", "-f", "-"]
    done = subprocess.run(command, input=rules, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"{name}: {done.stderr.strip()}\n{rules}", flush=True)
    return done.returncode == 0


def main(arguments: list[str]) -> None:
    port, authority, certificate, key, *nodes = arguments
    api = Api(int(port), Path(authority), Pair(Path(certificate), Path(key)))
    changes: queue.Queue[Change] = queue.Queue()
    for kind in WATCHED:
        threading.Thread(target=watch, args=(api, kind, changes), daemon=True).start()
    pids = {name: int(pid) for name, _, pid in (node.partition("=") for node in nodes)}
    enforce(pids, changes)


if __name__ == "__main__":
    main(sys.argv[1:])
