"""The commands that look at a deployment wherever it runs: `flash status`, `explain` and `doctor`. Says and asks.

One rule chooses the place: this machine, unless a cluster is named (`--cluster`, `--context`, `--kubeconfig`, `-A`) or
the program was called as `kubectl flash`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

if TYPE_CHECKING:
    from flash_operator.cluster.api import KubernetesApi
    from flash_operator.cockpit.facts import ClusterFacts, Manifest, Served

T = TypeVar("T")

AS_KUBECTL_PLUGIN: Final = "kubectl"
"""What the program is told as its context object when it is called as `kubectl flash`."""
WATCH_SECONDS: Final = 2.0
_WIDTH_WITHOUT_TERMINAL: Final = 200
_PANEL: Final = "Here or on a cluster"

out = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL)
err = Console(highlight=False, width=None if sys.stderr.isatty() else _WIDTH_WITHOUT_TERMINAL, stderr=True)


class Format(StrEnum):
    """How results are printed."""

    TEXT = "text"
    JSON = "json"


Name = Annotated[str | None, typer.Argument(help="Name of the FlashDeployment; unset = all, or the only one.")]
Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Unset = the one of the context; here: any.", show_default=False)
]
AllNamespaces = Annotated[bool, typer.Option("--all-namespaces", "-A", help="Of a cluster: in every namespace.")]
Cluster = Annotated[bool, typer.Option("--cluster", help="On the cluster of the kubeconfig, not on this machine.")]
Context = Annotated[str | None, typer.Option("--context", help="On the cluster of this context.", show_default=False)]
Kubeconfig = Annotated[
    Path | None,
    typer.Option("--kubeconfig", help="On the cluster of this file. Unset = KUBECONFIG.", show_default=False),
]
Output = Annotated[Format, typer.Option("--output", "-o", help="text for people, json for programs.")]


@dataclass(frozen=True)
class Target:
    """Which cluster, and where in it."""

    kubeconfig: str | None
    context: str | None
    namespace: str | None
    """None = all."""


def register(app: typer.Typer) -> None:
    """Add the commands to the `flash` program."""
    app.command("status", rich_help_panel=_PANEL)(status)
    app.command("explain", rich_help_panel=_PANEL)(explain)
    app.command("doctor", rich_help_panel=_PANEL)(doctor)


def status(
    ctx: typer.Context,
    name: Name = None,
    namespace: Namespace = None,
    all_namespaces: AllNamespaces = False,
    cluster: Cluster = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Of a cluster: go on, until Ctrl-C.")] = False,
    output: Output = Format.TEXT,
    as_json: Annotated[bool, typer.Option("--json", hidden=True)] = False,
) -> None:
    """Show deployments: conditions, pods, rollout, scaling and the last failure.

    On this machine, unless a cluster is named by --cluster, --context, --kubeconfig or -A; `kubectl flash status` means
    the cluster.
    """
    output = Format.JSON if as_json else output
    if not _means_cluster(ctx, cluster or all_namespaces, context, kubeconfig):
        if watch:
            _fail("--watch looks at a cluster: add --cluster")
        from flash_operator.local.commands import status as local_status

        local_status(name, as_json=output is Format.JSON, namespace=namespace)
        return
    target = _target(context, kubeconfig, namespace, all_namespaces)
    try:
        _run(target, lambda api: _show_status(api, target, name, watch=watch, output=output))
    except KeyboardInterrupt:
        return


def explain(
    ctx: typer.Context,
    name: Name = None,
    namespace: Namespace = None,
    cluster: Cluster = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = Format.TEXT,
) -> None:
    """Say why a deployment is as it is: its state, what blocks Ready, why so many pods, which route, which nodes.

    On this machine or on a cluster, as with `flash status`.
    """
    from flash_operator.cockpit import view
    from flash_operator.cockpit.explain import explain as explained

    if _means_cluster(ctx, cluster, context, kubeconfig):
        target = _target(context, kubeconfig, namespace, False)
        served = _run(target, lambda api: _explained(api, target, name))
    else:
        served = _local(name, namespace)
    sentences = explained(served, _planned(served.manifest))
    if output is Format.JSON:
        print(json.dumps([asdict(sentence) for sentence in sentences], indent=2))
    else:
        out.print(view.explanation(sentences))


def doctor(
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    operator_namespace: Annotated[str, typer.Option(help="Where the operator runs.")] = "flashplane-system",
    output: Output = Format.TEXT,
) -> None:
    """Examine a cluster and its Flashplane: API, CRDs, operator, permissions, pods, Secrets and every deployment.

    Each finding names its cause and what to do. Changes nothing. Without --namespace, every namespace is looked at.
    Exit code 1 = something is wrong.
    """
    from flash_operator.cluster.protocol import ClusterError
    from flash_operator.cockpit import view
    from flash_operator.cockpit.facts import ClusterFacts
    from flash_operator.cockpit.findings import Severity, findings

    target = Target(_kubeconfig(kubeconfig), context, namespace)

    async def examine(api: KubernetesApi) -> ClusterFacts:
        from flash_operator.cockpit.look import Doctor

        return await Doctor(api, operator_namespace=operator_namespace, now=_now).look(namespace)

    try:
        facts = asyncio.run(_with_api(target, examine))
    except ClusterError as error:
        facts = ClusterFacts(now=_now(), unreachable=str(error))
    found = findings(facts)
    if output is Format.JSON:
        print(json.dumps([asdict(finding) for finding in found], indent=2))
    else:
        out.print(view.diagnosis(found))
    raise typer.Exit(1 if any(finding.severity is Severity.ERROR for finding in found) else 0)


async def _show_status(api: KubernetesApi, target: Target, name: str | None, *, watch: bool, output: Format) -> None:
    from flash_operator.cockpit import view

    found = await _served(api, target, name)
    shared = await _models(api, target) if name is None else ()
    if output is Format.JSON:
        entries = [{"manifest": served.manifest, "pods": list(served.pods)} for served in found]
        print(json.dumps({"deployments": entries, "models": list(shared)}, indent=2))
        return
    everywhere = target.namespace is None
    if shared and not watch:
        out.print(view.models(shared, namespaces=everywhere), end="\n\n" if found else "\n")
    if not found and not watch:
        where = "the cluster" if everywhere else f"namespace {target.namespace}"
        out.print(f"No FlashDeployment is in {where}. Make one: kubectl apply -f examples/quickstart.yaml")
        return
    details = name is not None or len(found) == 1
    if not watch:
        out.print(view.cluster_status(found, now=_now(), namespaces=everywhere, details=details))
        return
    with Live(console=out, auto_refresh=False) as live:
        while True:
            live.update(view.cluster_status(found, now=_now(), namespaces=everywhere, details=details), refresh=True)
            await asyncio.sleep(WATCH_SECONDS)
            found = await _served(api, target, name)


async def _served(api: KubernetesApi, target: Target, name: str | None) -> tuple[Served, ...]:
    from flash_operator.cluster.api import Missing
    from flash_operator.cluster.protocol import ClusterError
    from flash_operator.cockpit import look

    try:
        return await look.served(api, target.namespace, name)
    except Missing as error:
        if name is None:
            raise ClusterError("this cluster knows no FlashDeployments; flash doctor says what is missing") from error
        raise ClusterError(f"no FlashDeployment is called {name} in namespace {target.namespace}") from error


async def _explained(api: KubernetesApi, target: Target, name: str | None) -> Served:
    from flash_operator.cockpit.pulling import pulling

    served = _only(await _served(api, target, name))
    return replace(served, pulling=await pulling(api, served))


async def _models(api: KubernetesApi, target: Target) -> tuple[Manifest, ...]:
    from flash_operator.cluster.protocol import Forbidden
    from flash_operator.cockpit import look

    try:
        return await look.models(api, target.namespace)
    except Forbidden:
        return ()  # who may see deployments only sees those


def _run(target: Target, work: Callable[[KubernetesApi], Awaitable[T]]) -> T:
    from flash_operator.cluster.protocol import ClusterError

    try:
        return asyncio.run(_with_api(target, work))
    except ClusterError as error:
        _fail(str(error))


async def _with_api(target: Target, work: Callable[[KubernetesApi], Awaitable[T]]) -> T:
    from flash_operator.cluster.api import KubernetesApi

    api = await KubernetesApi.connect(target.kubeconfig, context=target.context)
    try:
        return await work(api)
    finally:
        await api.aclose()


def _means_cluster(ctx: typer.Context, asked: bool, context: str | None, kubeconfig: Path | None) -> bool:
    return asked or context is not None or kubeconfig is not None or ctx.obj == AS_KUBECTL_PLUGIN


def _target(context: str | None, kubeconfig: Path | None, namespace: str | None, everywhere: bool) -> Target:
    from flash_operator.cluster.api import context_namespace
    from flash_operator.cluster.protocol import ClusterError

    file = _kubeconfig(kubeconfig)
    if everywhere or namespace is not None or file is None:
        return Target(file, context, None if everywhere else namespace or "default")
    try:
        return Target(file, context, context_namespace(file, context))
    except ClusterError as error:
        _fail(str(error))


def _kubeconfig(given: Path | None) -> str | None:
    """As kubectl chooses it: the option, KUBECONFIG, the file in the home folder; None = inside a pod."""
    if given is not None:
        return str(given)
    if named := os.environ.get("KUBECONFIG"):
        return named
    usual = Path.home() / ".kube" / "config"
    return str(usual) if usual.is_file() else None


def _only(found: Sequence[Served]) -> Served:
    if len(found) == 1:
        return found[0]
    if not found:
        _fail("no FlashDeployment is there")
    _fail(f"which one? name one of: {', '.join(sorted(served.name for served in found))}")


def _local(name: str | None, namespace: str | None) -> Served:
    from flash_operator.cockpit.facts import Served
    from flash_operator.local.client import Client, resolve
    from flash_operator.local.place import Place, state_dir
    from flash_operator.local.store import StoreError

    try:
        return Served(resolve(Client(Place(state_dir(os.environ))).snapshot(), name, namespace)["manifest"])
    except (LookupError, StoreError) as error:
        _fail(str(error))


def _planned(manifest: Manifest) -> tuple[Manifest, ...]:
    """What the operator makes of the spec; nothing of one that it refuses."""
    from pydantic import ValidationError

    from flash_api.manifest import stored_deployment
    from flash_operator.plan import PlanSettings, plan

    try:
        return tuple(plan(stored_deployment(manifest), PlanSettings()).objects)
    except ValidationError:
        return ()


def _now() -> datetime:
    return datetime.now(UTC)


def _fail(message: str) -> NoReturn:
    err.print(Text.assemble(("✗ ", "red"), message), soft_wrap=True)
    raise typer.Exit(1)
