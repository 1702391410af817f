"""The operator's loop of one FlashModel inside the test's process."""

from datetime import UTC, datetime

from operator_in_process import Lives

from flash_operator.cluster.kubernetes import KubernetesCluster
from flash_operator.cluster.protocol import Key
from flash_operator.reconcile import Outcome, ReconcileSettings
from flash_operator.reconcile_model import reconcile_model
from flash_operator.scaling import Scaler
from flash_operator.trial import Witness


class ModelLives(Lives):
    """The operator of one FlashModel, one life after the other."""

    async def reconcile(
        self, cluster: KubernetesCluster, key: Key, settings: ReconcileSettings, witness: Witness, scaler: Scaler
    ) -> Outcome:
        del witness, scaler
        return await reconcile_model(cluster, key, now=lambda: datetime.now(UTC), settings=settings)
