"""What watches have told, whatever the order in which they told it."""

from hypothesis import given
from hypothesis import strategies as st
from operator_objects import a_service

from flash_operator.cluster.holdings import Holdings
from flash_operator.cluster.protocol import Key

A, B = Key("default", "a"), Key("default", "b")


def held(holdings: Holdings, owner: Key = A) -> list[str]:
    return [manifest["metadata"]["name"] for manifest in holdings.of(owner)]


def test_an_object_comes_back_as_it_was_put_but_for_who_wrote_its_fields() -> None:
    service = a_service(ports=[{"port": 80}])
    service["metadata"]["managedFields"] = [{"manager": "someone"}]
    holdings = Holdings("v1", "Service")
    assert holdings.put(service) == {A}
    (found,) = holdings.of(A)
    assert found == a_service(ports=[{"port": 80}])
    assert len(holdings) == 1


def test_a_version_that_is_known_or_older_is_no_news() -> None:
    holdings = Holdings("v1", "Service")
    holdings.put(a_service(version=5, type="new"))
    assert holdings.put(a_service(version=5, type="new")) == frozenset()
    assert holdings.put(a_service(version=4, type="old")) == frozenset()
    assert holdings.of(A)[0]["spec"] == {"type": "new"}


def test_what_is_gone_is_not_brought_back_by_an_older_event() -> None:
    holdings = Holdings("v1", "Service")
    holdings.put(a_service(version=1))
    assert holdings.drop(a_service(version=3)) == {A}
    assert holdings.put(a_service(version=2)) == frozenset()
    assert held(holdings) == []
    assert holdings.put(a_service(version=4)) == {A}


def test_an_old_deletion_does_not_take_the_namesake_that_came_after() -> None:
    holdings = Holdings("v1", "Service")
    holdings.put(a_service(version=4))
    assert holdings.drop(a_service(version=3)) == frozenset()
    assert held(holdings) == ["a-engine"]


def test_an_object_that_changes_its_owner_is_news_for_both() -> None:
    holdings = Holdings("v1", "Service")
    holdings.put(a_service(version=1))
    assert holdings.put(a_service(version=2, owner="b")) == {A, B}
    assert (held(holdings, A), held(holdings, B)) == ([], ["a-engine"])


def test_a_list_takes_away_what_it_does_not_hold_unless_that_is_newer() -> None:
    holdings = Holdings("v1", "Service")
    holdings.put(a_service("a-engine", version=1))
    holdings.put(a_service("a-gateway", version=2))
    holdings.put(a_service("a-late", version=9))
    assert holdings.retain({("default", "a-gateway")}, version=5) == {A}
    assert held(holdings) == ["a-gateway", "a-late"]


@given(st.permutations(range(8)), st.lists(st.integers(0, 7), max_size=8))
def test_any_order_and_any_repetition_of_events_ends_the_same(order: list[int], again: list[int]) -> None:
    """A history of one name: made, changed, deleted, made anew by another owner, changed, deleted, made, changed."""
    owners = "aaabbbaa"
    holdings = Holdings("v1", "Service")
    for index in (*order, *again):
        event = a_service(version=index + 1, owner=owners[index], step=index)
        (holdings.drop if index in (2, 5) else holdings.put)(event)
    assert [manifest["spec"]["step"] for manifest in holdings.of(A)] == [7]
    assert held(holdings, B) == []
