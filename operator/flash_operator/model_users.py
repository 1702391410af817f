"""Who must hear when a FlashModel changes: the FlashDeployments that name it. An index, kept by their passes."""

from __future__ import annotations

from flash_operator.cluster.protocol import Key


class ModelUsers:
    """Which FlashDeployments name which FlashModel, as their last passes have found."""

    def __init__(self) -> None:
        self._model_of: dict[Key, Key] = {}
        self._users: dict[Key, set[Key]] = {}

    def names_model(self, deployment: Key, model: str | None) -> None:
        """The deployment names this model now, None = none. Told before the model is read, so no change is missed."""
        wanted = Key(deployment.namespace, model) if model is not None else None
        before = self._model_of.pop(deployment, None)
        if before is not None:
            self._users[before].discard(deployment)
            if not self._users[before]:
                del self._users[before]
        if wanted is not None:
            self._model_of[deployment] = wanted
            self._users.setdefault(wanted, set()).add(deployment)

    def model_of(self, deployment: Key) -> Key | None:
        """The model that the deployment names."""
        return self._model_of.get(deployment)

    def of(self, model: Key) -> frozenset[Key]:
        """The deployments that name it."""
        return frozenset(self._users.get(model, ()))
