"""What pods say that fetch a model, by the last line of their log."""

from typing import Any

import pytest
from builders import a_manifest

from flash_operator.cluster.protocol import Forbidden
from flash_operator.cockpit.explain import explain
from flash_operator.cockpit.facts import Served
from flash_operator.cockpit.pulling import pulling

LINE = "flash-pull: download: 350 of 700 MB\n"
RUNNING: dict[str, Any] = {"running": {}}
OWN = "/api/v1/namespaces/default/pods"


class Logs:
    """An API with logs and the pods of FlashModels. A path that is not there is refused."""

    def __init__(self, pages: dict[str, tuple[int, str]], pods: list[dict[str, Any]] | None = None) -> None:
        self.pages = pages
        self.pods = pods

    async def page(self, path: str) -> tuple[int, str]:
        if path not in self.pages:
            raise Forbidden(path)
        return self.pages[path]

    async def request(self, method: str, path: str, *, label_selector: str) -> dict[str, Any]:
        if self.pods is None:
            raise Forbidden(path)
        assert (method, path, label_selector) == ("get", OWN, "flashplane.dev/model=olmoe")
        return {"items": self.pods}


def a_pod(name: str, kind: str, container: str, state: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": {kind: [{"name": container, "state": state}]}}


def log_of(pod: str, container: str = "pull") -> str:
    return f"{OWN}/{pod}/log?container={container}&tailLines=1"


async def test_a_running_pull_is_quoted_and_explained() -> None:
    served = Served(a_manifest(), [a_pod("chat-1", "initContainerStatuses", "pull", RUNNING)])
    api: Any = Logs({log_of("chat-1"): (200, LINE)})
    (said,) = await pulling(api, served)
    assert said == "Pod chat-1 says: flash-pull: download: 350 of 700 MB"
    explained = explain(Served(served.manifest, served.pods, (said,)))
    assert said in [sentence.text for sentence in explained if sentence.topic == "Model"]


async def test_the_pull_of_a_shared_model_and_that_of_a_draft_are_quoted_too() -> None:
    served = Served(
        a_manifest(model={"modelRef": {"name": "olmoe"}}),
        [a_pod("chat-1", "initContainerStatuses", "pull-draft", RUNNING)],
    )
    pages = {log_of("chat-1", "pull-draft"): (200, LINE), log_of("olmoe-pull-1"): (200, LINE)}
    api: Any = Logs(pages, [a_pod("olmoe-pull-1", "containerStatuses", "pull", RUNNING)])
    assert len(await pulling(api, served)) == 2


@pytest.mark.parametrize(
    ("container", "state", "page"),
    [
        ("engine", RUNNING, (200, LINE)),
        ("pull", {"waiting": {"reason": "PodInitializing"}}, (200, LINE)),
        ("pull", {"terminated": {"exitCode": 0}}, (200, LINE)),
        ("pull", RUNNING, (200, "")),
        ("pull", RUNNING, (500, "no kubelet answers")),
        ("pull", RUNNING, None),
    ],
)
async def test_nothing_is_said_where_nothing_pulls_or_nothing_may_be_read(
    container: str, state: dict[str, Any], page: tuple[int, str] | None
) -> None:
    served = Served(
        a_manifest(model={"modelRef": {"name": "olmoe"}}), [a_pod("chat-1", "initContainerStatuses", container, state)]
    )
    api: Any = Logs({log_of("chat-1", container): page} if page is not None else {})
    assert await pulling(api, served) == ()
