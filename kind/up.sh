#!/usr/bin/env bash
# A kind cluster with our images in it and our chart installed: kind/up.sh [down]. Needs Docker, kind, kubectl and Helm.
set -euo pipefail
cd "$(dirname "$0")/.."

name=flashplane
namespace=flashplane-system

for tool in docker kind kubectl helm python3; do
  command -v "$tool" >/dev/null || { echo "kind/up.sh: there is no $tool on this machine; install it, or see kind/hermetic, which needs no Docker" >&2; exit 2; }
done
docker info >/dev/null 2>&1 || { echo "kind/up.sh: Docker is installed but does not answer; start it" >&2; exit 2; }

if [ "${1:-up}" = down ]; then
  exec kind delete cluster --name "$name"
fi

# The engine for CPUs: the official tritonserver image is many gigabytes, and kind nodes have no GPU.
python3 images/build.py --builder docker --cpu
version=$(python3 -c 'import tomllib; print(tomllib.load(open("pyproject.toml", "rb"))["project"]["version"])')
base=$(docker image inspect --format '{{index .Config.Labels "org.opencontainers.image.base.name"}}' "ghcr.io/flashplane/engine:$version-cpu")

if ! kind get clusters | grep -qx "$name"; then
  kind create cluster --config kind/cluster.yaml --wait 3m
fi
kind load docker-image --name "$name" \
  "ghcr.io/flashplane/operator:$version" "ghcr.io/flashplane/gateway:$version" "ghcr.io/flashplane/engine:$version-cpu"

# kind's own network (kindnet) has enforced NetworkPolicies since kind 0.24.
helm upgrade --install flashplane charts/flashplane --kube-context "kind-$name" \
  --namespace "$namespace" --create-namespace --wait --timeout 3m \
  --set "images.engine.tag=$version-cpu" --set "images.engine.base=$base" --set cluster.enforcesNetworkPolicies=true

cat <<NEXT

  kubectl --context kind-$name apply -f examples/quickstart.yaml
  kubectl --context kind-$name wait fd/quickstart --for=condition=Ready --timeout=5m
  kubectl --context kind-$name port-forward service/quickstart-gateway 8080:8080
NEXT
