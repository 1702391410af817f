"""`flash-gateway`: read the configuration, take the port, serve until SIGTERM, finish what runs, exit 0.

Errors of the start are one line on standard error and exit code 1: what is wrong, and what to do.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from pydantic import ValidationError

from flash_api.config.gateway import GatewayConfig
from flash_api.names import ENV_HOSTS, FILE_GATEWAY_CONFIG, PACKED_MODEL, PORT_GATEWAY
from flash_runtime.gateway.access import Access
from flash_runtime.gateway.app import create_app
from flash_runtime.gateway.auth import ApiKeys, ApiKeysError
from flash_runtime.gateway.discovery import Discovery, Dns, HostsFile
from flash_runtime.gateway.draft_watch import DraftWatch
from flash_runtime.gateway.drain import Drain
from flash_runtime.gateway.gateway import Gateway, Surroundings
from flash_runtime.gateway.hold import Holding
from flash_runtime.gateway.listen import Server, StartError, bind, passed_socket
from flash_runtime.gateway.logs import set_up_logging
from flash_runtime.gateway.replicas import Connection, ReplicaPool
from flash_runtime.gateway.resume import PATIENCE_SECONDS
from flash_runtime.gateway.tls import Certificate, CertificateError
from flash_runtime.gateway.tracks import Tracks
from flash_runtime.packed import PackedError
from flash_runtime.text.assets import TextAssets, TextError
from flash_runtime.text.chat import ChatTemplate
from flash_runtime.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from flash_runtime.gateway.provider_keys import HttpsFetch
    from flash_runtime.gateway.tokens import Tokens
    from flash_runtime.gateway.tracing import Tracer

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Console script `flash-gateway`."""
    options = _parser().parse_args(argv)
    try:
        config = read_config(Path(options.config))
        listener = passed_socket(os.environ) or bind(options.address, options.port)
        with listener:
            serve(config, listener, environment=os.environ, log_level=options.log_level)
    except StartError as error:
        print(f"flash-gateway: {error}", file=sys.stderr)
        return 1
    return 0


def read_config(path: Path) -> GatewayConfig:
    """Raises StartError."""
    try:
        return GatewayConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise StartError(f"--config ({path}) cannot be read: {error.strerror}; name the gateway.json") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        raise StartError(f"--config ({path}): {field}: {first['msg']}; correct it") from error


def serve(config: GatewayConfig, listener: socket.socket, *, environment: Mapping[str, str], log_level: str) -> None:
    """Run until a signal ends it. Raises StartError."""
    try:
        assets = TextAssets.from_packed(Path(config.model_dir) / PACKED_MODEL)
        tokenizer = Tokenizer(assets)
        chat_template = ChatTemplate(assets.header, tokenizer, now=lambda: datetime.now().astimezone())
        keys = None
        if config.api_keys_file is not None:
            keys = ApiKeys(Path(config.api_keys_file), clock=time.monotonic)
        certificate = None if config.tls is None else Certificate(config.tls, clock=time.monotonic)
    except (PackedError, TextError, ApiKeysError, CertificateError) as error:
        raise StartError(str(error)) from error
    pool = ReplicaPool(
        discovery(config, environment),
        lambda address: connect(address, config),
        clock=time.monotonic,
    )
    canary = canary_pool(config, environment)
    gateway = Gateway(
        config,
        assets,
        tracks(config, pool, canary),
        tokenizer=tokenizer,
        chat_template=chat_template,
        surroundings=real_surroundings(),
        patience_seconds=PATIENCE_SECONDS,
    )
    if certificate is not None:
        gateway.metrics.watch_certificate(certificate.expires_at)
    drain = Drain()
    fetch = None if config.oidc is None else provider_fetch()
    access = Access(keys, tokens(config, fetch))
    traces = tracer(config)
    drafts = draft_watch(config, environment)
    server = Server(
        uvicorn.Config(
            create_app(gateway, access=access, drain=drain, traces=traces, drafts=drafts),
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=config.drain_seconds,
            ssl_context_factory=None if certificate is None else lambda *_: certificate.context,
        ),
        drain,
    )
    set_up_logging(log_level)
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        closing = (pool.close, *((canary.close,) if canary else ()), *((fetch.aclose,) if fetch else ()))
        closing += (drafts.aclose,) if drafts is not None else ()
        runner.run(_serve(server, listener, *closing))
    if traces is not None:
        traces.close()
    logger.info("stopped")


async def _serve(server: Server, listener: socket.socket, *close: Callable[[], Awaitable[None]]) -> None:
    try:
        await server.serve(sockets=[listener])
    finally:
        for each in close:
            await each()


def tracer(config: GatewayConfig) -> Tracer | None:
    """Where traces go, if anywhere. Imported late: an extra, that costs nothing where it is off. Raises StartError."""
    if config.tracing is None:
        return None
    try:
        from flash_runtime.gateway.tracing import Tracer
    except ModuleNotFoundError as error:
        raise StartError(f"tracing needs {error.name}: pip install 'flashplane[tracing]'") from error
    return Tracer(config.tracing, model=config.served_model_name, instance=socket.gethostname())


def provider_fetch() -> HttpsFetch:
    """How the token provider is asked. Imported late: most gateways trust no provider."""
    from flash_runtime.gateway.provider_keys import HttpsFetch

    return HttpsFetch()


def tokens(config: GatewayConfig, fetch: HttpsFetch | None) -> Tokens | None:
    """The tokens that are accepted, if a provider is trusted."""
    if config.oidc is None or fetch is None:
        return None
    from flash_runtime.gateway.provider_keys import ProviderKeys
    from flash_runtime.gateway.tokens import Tokens

    return Tokens(config.oidc, ProviderKeys(config.oidc.issuer_url, fetch, clock=time.monotonic))


def connect(address: str, config: GatewayConfig) -> Connection:
    """A connection to tritonserver. Imported late: a third of the start would otherwise go into gRPC."""
    from flash_runtime.gateway.triton import TritonReplica

    return TritonReplica(address, stall_timeout_seconds=config.limits.stall_timeout_seconds)


def discovery(config: GatewayConfig, environment: Mapping[str, str]) -> Discovery:
    """A hosts file where one is named, DNS otherwise. Raises StartError."""
    return _discovery("engine", config.engine, environment, may_be_empty=False)


def canary_pool(config: GatewayConfig, environment: Mapping[str, str]) -> ReplicaPool | None:
    """The replicas of a revision on trial, if there may ever be one. Raises StartError."""
    if config.canary is None:
        return None
    found = _discovery("canary.engine", config.canary.engine, environment, may_be_empty=True)
    return ReplicaPool(found, lambda address: connect(address, config), clock=time.monotonic)


def draft_watch(config: GatewayConfig, environment: Mapping[str, str]) -> DraftWatch | None:
    """What reads from the engines what proposals are worth, if there are any. Raises StartError."""
    if config.engine_metrics is None:
        return None
    from flash_runtime.gateway.page_fetch import HttpFetch

    found = _discovery("engine_metrics", config.engine_metrics, environment, may_be_empty=True)
    return DraftWatch(found, HttpFetch(), clock=time.monotonic)


def tracks(config: GatewayConfig, stable: ReplicaPool, canary: ReplicaPool | None) -> Tracks:
    """Who answers which share of the requests."""
    percent = config.canary.percent if config.canary is not None else 0
    return Tracks(stable, canary, percent=percent, holding=Holding(stable, clock=time.monotonic))


def _discovery(field: str, target: str, environment: Mapping[str, str], *, may_be_empty: bool) -> Discovery:
    host, _, port = target.rpartition(":")
    if not host or not port.isdecimal():
        raise StartError(f"{field} ({target}) must be host:port, as in chat-engine.default.svc:8001; correct it")
    hosts_file = environment.get(ENV_HOSTS)
    if hosts_file:
        return HostsFile(Path(hosts_file), target)
    return Dns(target, clock=time.monotonic, may_be_empty=may_be_empty)


def real_surroundings() -> Surroundings:
    """Clocks and randomness of this process."""
    return Surroundings(
        clock=time.monotonic,
        wall_clock=time.time,
        draw_seed=lambda: secrets.randbits(63),
        draw_id=lambda: secrets.token_hex(12),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flash-gateway",
        description="Serve the OpenAI-compatible API of one FlashDeployment: /v1/models, /v1/chat/completions, "
        "/v1/completions, /metrics, /livez, /readyz.",
        epilog=f"{ENV_HOSTS} names a file that stands in for DNS: lines of `host:port address:port ...`. "
        "LISTEN_FDS=1 (systemd socket activation) makes the gateway serve on file descriptor 3 instead of --port.",
    )
    parser.add_argument(
        "--config", default=FILE_GATEWAY_CONFIG, metavar="FILE", help="the gateway.json (default: %(default)s)"
    )
    parser.add_argument("--address", default="0.0.0.0", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", default=PORT_GATEWAY, type=int, help="port to listen on (default: %(default)s)")
    parser.add_argument(
        "--log-level",
        default="info",
        choices=("debug", "info", "warning", "error"),
        help="what to log on standard error, as JSON lines (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
