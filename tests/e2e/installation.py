"""How the end-to-end tests install the chart: what a user says where there is neither registry nor internet."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
IS_FULL = os.environ.get("FULL") == "1"
PACKAGES = ROOT / "examples" / "air-gapped" / "package-index.yaml"
PACKAGE_INDEX = "http://packages.packages.svc:8080/"
GATEWAY_IMAGE = "ghcr.io/flashplane/gateway:0.1.0"
VALUES = (
    f"packageIndex={PACKAGE_INDEX}",
    "images.engine.tag=0.1.0-cpu",
    "images.engine.base=debian:bookworm",
    "cluster.enforcesNetworkPolicies=true",
)
