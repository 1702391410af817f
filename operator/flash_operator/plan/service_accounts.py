"""The ServiceAccounts of both components: names for policies and quotas to go by, without any right or token."""

from __future__ import annotations

from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_operator.plan.metadata import Manifest, owned_object


def service_account(deployment: FlashDeployment, component: str) -> Manifest:
    """The account of one component's pods."""
    return owned_object(
        deployment,
        component,
        api_version="v1",
        kind="ServiceAccount",
        name=f"{deployment.metadata.name}-{component}",
        # Pods say it too; this is for pods that someone else runs under the account.
        automountServiceAccountToken=False,
    )
