"""The ServiceAccounts of each component: names for policies and quotas to go by, without any right or token."""

from __future__ import annotations

from flash_operator.plan.metadata import Manifest, Owner, owned_object


def service_account(owner: Owner, component: str) -> Manifest:
    """The account of one component's pods."""
    return owned_object(
        owner,
        component,
        api_version="v1",
        kind="ServiceAccount",
        name=f"{owner.metadata.name}-{component}",
        # Pods say it too; this is for pods that someone else runs under the account.
        automountServiceAccountToken=False,
    )
