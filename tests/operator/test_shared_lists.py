"""Lists that passes share."""

import asyncio
from collections.abc import Sequence

import pytest

from flash_api import names
from flash_operator.cluster.protocol import ClusterError, Key, Manifest
from flash_operator.cluster.shared_lists import NAMES_MAX, ROUNDS_AT_ONCE, SharedLists


class Server:
    """Answers a list when it is told to, with one child for each name that the selector chooses."""

    def __init__(self) -> None:
        self.selectors: list[str] = []
        self.goes_on = asyncio.Semaphore(0)
        self.version = 1
        self.error: ClusterError | None = None

    async def __call__(self, api_version: str, kind: str, namespace: str, selector: str) -> Sequence[Manifest]:
        self.selectors.append(selector)
        await self.goes_on.acquire()
        if self.error is not None:
            raise self.error
        chosen = selector.rpartition("(")[2].rstrip(")").rpartition("=")[2].split(",")
        return [self._child(namespace, name) for name in chosen]

    def answer(self, lists: int = 1) -> None:
        for _ in range(lists):
            self.goes_on.release()

    def _child(self, namespace: str, name: str) -> Manifest:
        labels = {names.LABEL_DEPLOYMENT: name}
        return {"metadata": {"name": name, "namespace": namespace, "labels": labels, "resourceVersion": self.version}}


def ask(lists: SharedLists, name: str, namespace: str = "default") -> asyncio.Task[tuple[Manifest, ...]]:
    return asyncio.create_task(lists.of("v1", "Service", Key(namespace, name)))


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_one_that_asks_alone_is_listed_alone() -> None:
    server = Server()
    server.answer()
    (child,) = await SharedLists(server).of("v1", "Service", Key("default", "a"))
    assert child["metadata"]["name"] == "a"
    assert server.selectors == [f"{names.LABEL_DEPLOYMENT}=a"]


async def test_those_who_ask_together_share_a_list_and_each_is_given_its_own() -> None:
    server = Server()
    lists = SharedLists(server)
    asked = [ask(lists, name) for name in "abc"]
    server.answer()
    for name, children in zip("abc", await asyncio.gather(*asked), strict=True):
        assert [child["metadata"]["name"] for child in children] == [name]
    assert server.selectors == [f"{names.LABEL_DEPLOYMENT} in (a,b,c)"]


async def test_an_answer_is_never_older_than_its_question() -> None:
    server = Server()
    lists = SharedLists(server)
    before = ask(lists, "a")
    await settle()
    after = ask(lists, "a")
    await settle()
    server.answer()
    await before
    server.version = 2
    server.answer()
    (child,) = await after
    assert child["metadata"]["resourceVersion"] == 2


async def test_rounds_are_bounded_in_number_and_length() -> None:
    server = Server()
    lists = SharedLists(server)
    asked = [ask(lists, f"n{number:04}") for number in range(4 * NAMES_MAX)]
    await settle()
    assert len(server.selectors) == ROUNDS_AT_ONCE
    server.answer(4)
    assert all(await asyncio.gather(*asked))
    assert [selector.count(",") + 1 for selector in server.selectors] == [NAMES_MAX] * 4


async def test_namespaces_do_not_wait_for_each_other() -> None:
    server = Server()
    lists = SharedLists(server)
    asked = [ask(lists, "a", f"space-{number}") for number in range(5)]
    await settle()
    assert len(server.selectors) == 5
    server.answer(5)
    assert all(await asyncio.gather(*asked))


async def test_an_error_is_heard_by_all_who_asked_and_by_nobody_else() -> None:
    server = Server()
    server.error = ClusterError("no")
    lists = SharedLists(server)
    asked = [ask(lists, name) for name in "ab"]
    server.answer()
    assert all(isinstance(found, ClusterError) for found in await asyncio.gather(*asked, return_exceptions=True))
    server.error = None
    server.answer()
    assert await ask(lists, "a")


async def test_one_that_gives_up_takes_nobody_with_it() -> None:
    server = Server()
    lists = SharedLists(server)
    first, second = ask(lists, "a"), ask(lists, "b")
    await settle()
    first.cancel()
    server.answer()
    assert await second
    with pytest.raises(asyncio.CancelledError):
        await first
