"""One question, asked greedily and streamed: with the openai client from the host, and from inside a pod."""

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
from operator_process import Kubectl, eventually

QUESTION = "What is the capital of France?"
TOKENS = 24

IN_A_POD = f"""
import json, sys, urllib.request
body = json.dumps({{"model": sys.argv[2], "messages": [{{"role": "user", "content": {QUESTION!r}}}], "stream": True,
                   "temperature": 0, "max_tokens": {TOKENS}}}).encode()
request = urllib.request.Request(sys.argv[1] + "/chat/completions", body, {{"Content-Type": "application/json"}})
said, ends = [], 0
with urllib.request.urlopen(request, timeout=60) as answer:
    for line in answer:
        if line.startswith(b"data: [DONE]"):
            ends += 1
        elif line.startswith(b"data: "):
            said += [c["delta"].get("content") or "" for c in json.loads(line[6:])["choices"]]
print(json.dumps({{"text": "".join(said), "pieces": len([s for s in said if s]), "ends": ends}}))
"""
"""A streamed chat with nothing but the standard library; arguments: base URL and model."""


def streamed(base_url: str, model: str, api_key: str = "none") -> list[str]:
    """The pieces of the answer, through the unmodified client."""
    with openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=0) as client:
        chunks = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": QUESTION}],
            stream=True,
            temperature=0,
            max_tokens=TOKENS,
        )
        return [piece for chunk in chunks for choice in chunk.choices if (piece := choice.delta.content)]


def streamed_in_a_pod(kubectl: Kubectl, pod: str, base_url: str, model: str) -> dict[str, object]:
    """`text`, `pieces` and `ends` of the answer that a pod got."""
    said: dict[str, object] = json.loads(kubectl("exec", pod, "--", "python", "-c", IN_A_POD, base_url, model))
    return said


@contextmanager
def forwarded(kubectl: Path, kubeconfig: Path, service: str, port: int, namespace: str) -> Iterator[str]:
    """`kubectl port-forward` to a Service; the address on this host."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        local = int(free.getsockname()[1])
    command = [
        str(kubectl),
        f"--kubeconfig={kubeconfig}",
        f"--namespace={namespace}",
        "port-forward",
        f"service/{service}",
        f"{local}:{port}",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            eventually("the port is forwarded", lambda: _answers(local) or process.poll() is not None)
            assert process.poll() is None, "kubectl port-forward has ended"
            yield f"http://127.0.0.1:{local}/v1"
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
