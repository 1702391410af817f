"""The block pool: sharing, eviction and the checks that keep it honest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_runtime.engine.blocks import BlockPool, block_key, root_key


def published(pool: BlockPool, token_ids: tuple[int, ...], parent: bytes) -> tuple[int, bytes]:
    """A held block with this content."""
    (block,) = pool.allocate(1)
    key = block_key(parent, token_ids)
    pool.publish(block, key, token_ids)
    return block, key


def test_a_released_block_is_found_again_by_its_content() -> None:
    pool = BlockPool(4, 2)
    block, key = published(pool, (1, 2), root_key())
    pool.release([block])
    assert pool.num_free == 4
    assert pool.find(key, (1, 2)) == block


def test_tenants_with_different_salts_have_different_keys() -> None:
    assert block_key(root_key("a"), (1, 2)) != block_key(root_key("b"), (1, 2))


def test_the_same_tokens_after_another_beginning_have_another_key() -> None:
    first = block_key(root_key(), (1, 2))
    assert block_key(first, (5, 6)) != block_key(block_key(root_key(), (3, 4)), (5, 6))


def test_a_key_that_collides_is_no_hit_because_the_tokens_are_compared() -> None:
    pool = BlockPool(4, 2)
    block, key = published(pool, (1, 2), root_key())
    assert pool.find(key, (1, 3)) is None
    assert pool.find(key, (1, 2)) == block


def test_empty_blocks_are_taken_before_cached_ones() -> None:
    pool = BlockPool(3, 2)
    block, key = published(pool, (1, 2), root_key())
    pool.release([block])
    assert block not in pool.allocate(2)
    assert pool.find(key, (1, 2)) == block


def test_the_cached_block_unused_longest_is_evicted_first() -> None:
    pool = BlockPool(2, 2)
    old, old_key = published(pool, (1, 2), root_key())
    new, new_key = published(pool, (3, 4), root_key())
    pool.release([old])
    pool.release([new])
    assert pool.allocate(1) == [old]
    assert pool.find(old_key, (1, 2)) is None
    assert pool.find(new_key, (3, 4)) == new


def test_a_prefix_outlives_the_blocks_that_build_on_it() -> None:
    pool = BlockPool(2, 2)
    head, head_key = published(pool, (1, 2), root_key())
    tail, _ = published(pool, (3, 4), head_key)
    pool.release([head, tail])
    assert pool.allocate(1) == [tail]
    assert pool.find(head_key, (1, 2)) == head


def test_a_shared_block_is_free_only_when_everyone_let_go() -> None:
    pool = BlockPool(2, 2)
    block, _ = published(pool, (1, 2), root_key())
    pool.share([block])
    pool.release([block])
    assert pool.num_used == 1
    pool.release([block])
    assert pool.num_used == 0


def test_a_second_block_of_equal_content_stays_private_and_is_reused_first() -> None:
    pool = BlockPool(3, 2)
    first, key = published(pool, (1, 2), root_key())
    second, _ = published(pool, (1, 2), root_key())
    assert pool.find(key, (1, 2)) == first
    pool.release([first])
    pool.release([second])
    assert pool.allocate(1) == [second]
    pool.check_integrity()


@pytest.mark.parametrize(("num_blocks", "block_size"), [(0, 4), (4, 0)])
def test_a_pool_without_room_is_refused(num_blocks: int, block_size: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        BlockPool(num_blocks, block_size)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 2)), max_size=60))
def test_no_order_of_taking_sharing_and_releasing_breaks_the_pool(operations: list[tuple[int, int, int]]) -> None:
    pool = BlockPool(8, 2)
    held: list[list[int]] = []
    for kind, which, token in operations:
        token_ids = (token, token)
        key = block_key(root_key(), token_ids)
        if kind == 0 and pool.num_free:
            held.append(pool.allocate(1))
        elif kind == 1 and held:
            pool.publish(held[which % len(held)][0], key, token_ids)
        elif kind == 2 and held:
            pool.release(held.pop(which % len(held)))
        elif kind == 3 and (block := pool.find(key, token_ids)) is not None:
            pool.share([block])
            held.append([block])
        pool.check_integrity()
        assert pool.num_used == len({block for blocks in held for block in blocks})
