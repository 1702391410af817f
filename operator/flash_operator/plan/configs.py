"""The configuration files of both roles and the immutable ConfigMaps that carry them.

A ConfigMap's name ends in the hash of its content: a changed configuration is a new object, so a rollout and a rollback
both find the file they were made for.
"""

from __future__ import annotations

from typing import Final

from flash_api import names
from flash_api.config.draft import DraftConfig
from flash_api.config.engine import EngineConfig, EngineDraft
from flash_api.config.gateway import (
    CanaryEngines,
    GatewayConfig,
    GatewayLimits,
    GatewayOidc,
    GatewayTls,
    GatewayTracing,
)
from flash_api.quantities import whole_bytes
from flash_api.v1alpha1.flashdeployment import Draft, DraftMode, Engine, FlashDeployment, Observability
from flash_api.v1alpha1.residency import ResidencyMode
from flash_operator.plan.certificates import ends_tls
from flash_operator.plan.metadata import Manifest, content_hash, owned_object
from flash_operator.plan.network import has_draft
from flash_operator.plan.pods import drain_seconds
from flash_operator.plan.replicas import tries_revisions
from flash_operator.plan.settings import PlanSettings

ENGINE_FILE: Final = names.FILE_ENGINE_CONFIG.rpartition("/")[2]
DRAFT_FILE: Final = names.FILE_DRAFT_CONFIG.rpartition("/")[2]
GATEWAY_FILE: Final = names.FILE_GATEWAY_CONFIG.rpartition("/")[2]

NAMELESS: Final = "0"
"""Stands for the revision in a configuration that is only compared."""
_ENGINES_PER_DRAFT: Final = 4
"""Engines whose every request one draft keeps; of more, it forgets those that were asked about longest ago."""
_SEQUENCES_MAX: Final = 4096


def engine_config(deployment: FlashDeployment, draft_revision: str = "") -> EngineConfig:
    """The content of `engine.json`. `draft_revision` names the draft pods to ask; empty = they have no name yet."""
    spec = deployment.spec
    return EngineConfig(
        served_model_name=deployment.metadata.name,
        source=spec.model.source or f"{names.MODEL_KIND}/{spec.model.model_ref.name if spec.model.model_ref else ''}",
        revision=spec.model.revision,
        sha256=spec.model.sha256,
        variant=spec.variant,
        model_dir=names.DIR_MODELS,
        max_context_tokens=spec.model.max_context_tokens,
        active_experts=spec.model.active_experts,
        max_concurrent_requests=spec.engine.max_concurrent_requests,
        kv_cache_bytes=whole_bytes(spec.engine.kv_cache.memory),
        kv_cache_dtype=spec.engine.kv_cache.dtype,
        draft=_draft(deployment, draft_revision),
        log_level=(spec.observability or Observability()).log_level,
        shutdown_seconds=drain_seconds(deployment),
    )


def _draft(deployment: FlashDeployment, revision: str) -> EngineDraft | None:
    draft = deployment.spec.draft
    if draft is None or draft.mode is DraftMode.OFF:
        return None
    if draft.in_pods:
        revision = revision or NAMELESS
        host = names.service_host(names.drafts_name(deployment.metadata.name, revision), deployment.metadata.namespace)
        return EngineDraft(
            mode=draft.mode,
            lookahead=draft.lookahead,
            endpoints=(f"{host}:{names.PORT_ENGINE_GRPC}",),
            rollout_revision=revision,
        )
    model_dir = names.DIR_DRAFT if draft.in_process else None
    return EngineDraft(mode=draft.mode, lookahead=draft.lookahead, model_dir=model_dir)


def draft_config(deployment: FlashDeployment, draft: Draft, revision: str) -> DraftConfig:
    """The content of `draft.json`."""
    spec, model = deployment.spec, draft.model
    assert model is not None  # the mode Pods asks for one
    return DraftConfig(
        served_model_name=deployment.metadata.name,
        source=model.source or f"{names.MODEL_KIND}/{model.model_ref.name if model.model_ref else ''}",
        revision=model.revision,
        sha256=model.sha256,
        variant=spec.variant,
        model_dir=names.DIR_MODELS,
        rollout_revision=revision,
        kv_cache_bytes=_draft_cache_bytes(spec.engine, draft),
        kv_cache_dtype=spec.engine.kv_cache.dtype,
        max_sequences=min(_SEQUENCES_MAX, _ENGINES_PER_DRAFT * spec.engine.max_concurrent_requests),
        log_level=(spec.observability or Observability()).log_level,
    )


def _draft_cache_bytes(engine: Engine, draft: Draft) -> int:
    """As much as an engine has, which is plenty for a smaller model, within half of what the pod may use."""
    wanted = whole_bytes(engine.kv_cache.memory)
    if draft.resources is None or draft.resources.memory is None:
        return wanted
    return max(1024**2, min(wanted, whole_bytes(draft.resources.memory) // 2))


def gateway_config(deployment: FlashDeployment, settings: PlanSettings) -> GatewayConfig:
    """The content of `gateway.json`."""
    meta, spec = deployment.metadata, deployment.spec
    engine_host = names.service_host(names.engine_name(meta.name), meta.namespace)
    limits = spec.gateway.limits
    tls = GatewayTls(certificate_file=names.FILE_TLS_CERTIFICATE, key_file=names.FILE_TLS_KEY)
    return GatewayConfig(
        served_model_name=meta.name,
        engine=f"{engine_host}:{names.PORT_ENGINE_GRPC}",
        canary=_canary_engines(deployment),
        engine_metrics=f"{engine_host}:{names.PORT_ENGINE_METRICS}" if has_draft(deployment) else None,
        regions=_regions(deployment),
        model_dir=names.DIR_MODELS,
        max_context_tokens=spec.model.max_context_tokens,
        api_keys_file=names.FILE_API_KEYS if spec.gateway.auth.api_keys_secret_ref else None,
        oidc=_oidc(deployment),
        tracing=_tracing(deployment),
        tls=tls if ends_tls(deployment, settings) else None,
        limits=GatewayLimits(
            max_body_bytes=limits.max_body_bytes,
            max_output_tokens=limits.max_output_tokens,
            max_inflight_requests=limits.max_inflight_requests,
            request_timeout_seconds=limits.request_timeout_seconds,
        ),
        drain_seconds=drain_seconds(deployment),
    )


def _regions(deployment: FlashDeployment) -> tuple[str, ...]:
    """Those that nothing leaves, sorted: in the spec they are a set."""
    residency = deployment.spec.residency
    enforced = residency is not None and residency.mode is ResidencyMode.ENFORCE
    return tuple(sorted(residency.regions)) if residency is not None and enforced else ()


def _oidc(deployment: FlashDeployment) -> GatewayOidc | None:
    oidc = deployment.spec.gateway.auth.oidc
    if oidc is None:
        return None
    return GatewayOidc(issuer_url=oidc.issuer_url, audiences=tuple(oidc.audiences), username_claim=oidc.username_claim)


def _tracing(deployment: FlashDeployment) -> GatewayTracing | None:
    tracing = (deployment.spec.observability or Observability()).tracing
    if tracing is None:
        return None
    return GatewayTracing(endpoint=tracing.otlp_endpoint, sampling_percent=tracing.sampling_percent)


def _canary_engines(deployment: FlashDeployment) -> CanaryEngines | None:
    rollout = deployment.spec.rollout
    if rollout is None or rollout.canary_percent is None:
        return None
    host = names.service_host(names.canary_name(deployment.metadata.name), deployment.metadata.namespace)
    return CanaryEngines(engine=f"{host}:{names.PORT_ENGINE_GRPC}", percent=rollout.canary_percent)


def draft_config_map(deployment: FlashDeployment, draft: Draft, revision: str) -> Manifest:
    """The ConfigMap with `draft.json`."""
    text = draft_config(deployment, draft, revision).model_dump_json(indent=2)
    return _config_map(deployment, names.COMPONENT_DRAFT, DRAFT_FILE, text)


def engine_config_map(deployment: FlashDeployment, draft_revision: str = "") -> Manifest:
    """The ConfigMap with `engine.json`."""
    text = engine_config(deployment, draft_revision).model_dump_json(indent=2)
    return _config_map(deployment, names.COMPONENT_ENGINE, ENGINE_FILE, text)


def gateway_config_map(deployment: FlashDeployment, settings: PlanSettings) -> Manifest:
    """The ConfigMap with `gateway.json`."""
    config = gateway_config(deployment, settings)
    # Without what is not asked for, so that who never asks for it has the file of before.
    unwanted = {field for field in ("oidc", "tls", "tracing", "engine_metrics") if getattr(config, field) is None}
    if not config.regions:
        unwanted.add("regions")
    if not tries_revisions(deployment):
        unwanted.add("canary")
    text = config.model_dump_json(indent=2, exclude=unwanted)
    return _config_map(deployment, names.COMPONENT_GATEWAY, GATEWAY_FILE, text)


def _config_map(deployment: FlashDeployment, component: str, file: str, text: str) -> Manifest:
    digest = content_hash(text)
    return owned_object(
        deployment,
        component,
        api_version="v1",
        kind="ConfigMap",
        name=f"{deployment.metadata.name}-{component}-{digest}",
        extra_labels={names.LABEL_CONFIG_HASH: digest},
        immutable=True,
        data={file: text + "\n"},
    )
