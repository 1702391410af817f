"""Who must hear when a FlashModel changes: the FlashDeployments that name it. An index, kept by their passes."""

from __future__ import annotations

from collections.abc import Collection

from flash_operator.cluster.protocol import Key


class ModelUsers:
    """Which FlashDeployments name which FlashModels, as their last passes have found."""

    def __init__(self) -> None:
        self._models_of: dict[Key, frozenset[Key]] = {}
        self._users: dict[Key, set[Key]] = {}

    def names_models(self, deployment: Key, models: Collection[str]) -> None:
        """The deployment names these models now. Told before they are read, so no change is missed."""
        wanted = frozenset(Key(deployment.namespace, model) for model in models)
        for model in self._models_of.pop(deployment, frozenset()) - wanted:
            self._users[model].discard(deployment)
            if not self._users[model]:
                del self._users[model]
        if wanted:
            self._models_of[deployment] = wanted
        for model in wanted:
            self._users.setdefault(model, set()).add(deployment)

    def models_of(self, deployment: Key) -> frozenset[Key]:
        """The models that the deployment names."""
        return self._models_of.get(deployment, frozenset())

    def of(self, model: Key) -> frozenset[Key]:
        """The deployments that name it."""
        return frozenset(self._users.get(model, ()))
