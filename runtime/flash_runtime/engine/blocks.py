"""Who holds which block of the paged KV cache. No tensors, no clock: block numbers, reference counts and content keys.

A full block whose keys and values are computed may be *published* under a key that chains over everything before it, so
a later sequence with the same beginning shares it. A block that nobody holds stays published until it is needed for
something else; the one unused longest goes first, and within a sequence the last block goes first.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final

NO_BLOCK: Final = -1
"""Stands in a sequence's table for a block that none of its tokens sees any more."""
Key = bytes
_KEY_BYTES = 16


def root_key(salt: str = "") -> Key:
    """The key before the first block. Sequences with different salts (tenants) never share a block."""
    return blake2b(salt.encode(), digest_size=_KEY_BYTES, person=b"flashplane-root").digest()


def block_key(parent: Key, token_ids: Sequence[int]) -> Key:
    """The key of a full block: its own tokens and, through the parent, all tokens before it."""
    return blake2b(parent + array("i", token_ids).tobytes(), digest_size=_KEY_BYTES).digest()


class BlockPool:
    """All blocks of one KV cache: held, cached (published but free) or empty."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(f"num_blocks ({num_blocks}) and block_size ({block_size}) must be at least 1")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._holders = [0] * num_blocks
        self._published: dict[int, tuple[Key, tuple[int, ...]]] = {}
        self._by_key: dict[Key, int] = {}
        # Free blocks, next to be handed out first. Empty ones enter at the front, cached ones at the back.
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds, cached ones included."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        """Blocks that at least one sequence holds."""
        return self.num_blocks - len(self._free)

    def blocks_for(self, num_tokens: int) -> int:
        """How many blocks that many tokens fill or touch."""
        return -(-num_tokens // self.block_size)

    def find(self, key: Key, token_ids: Sequence[int]) -> int | None:
        """The published block with this key, if its tokens really are these."""
        block = self._by_key.get(key)
        if block is None or self._published[block][1] != tuple(token_ids):
            return None
        return block

    def is_free(self, block: int) -> bool:
        """Whether nobody holds the block."""
        return self._holders[block] == 0

    def share(self, blocks: Iterable[int]) -> None:
        """Hold blocks that `find` returned."""
        for block in blocks:
            if self._holders[block] == 0:
                del self._free[block]
            self._holders[block] += 1

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks for new content; the caller has checked `num_free`."""
        assert count <= len(self._free), f"{count} blocks wanted, {len(self._free)} free"
        taken = []
        for _ in range(count):
            block, _none = self._free.popitem(last=False)
            self._unpublish(block)
            self._holders[block] = 1
            taken.append(block)
        return taken

    def publish(self, block: int, key: Key, token_ids: Sequence[int]) -> None:
        """Offer a held, full, computed block to later sequences. A second block of equal content stays private."""
        assert self._holders[block] > 0, f"block {block} is published but not held"
        assert len(token_ids) == self.block_size, f"block {block} is published with {len(token_ids)} tokens"
        if key not in self._by_key and block not in self._published:
            self._by_key[key] = block
            self._published[block] = (key, tuple(token_ids))

    def release(self, blocks: Sequence[int]) -> None:
        """Let go of a sequence's blocks, given in order from its first token."""
        for block in reversed(blocks):
            assert self._holders[block] > 0, f"block {block} is released but not held"
            self._holders[block] -= 1
            if self._holders[block] == 0:
                self._free[block] = None
                if block not in self._published:
                    self._free.move_to_end(block, last=False)

    def check_integrity(self) -> None:
        """Raise AssertionError unless every block is exactly one of held and free, and the key index is a bijection."""
        for block, holders in enumerate(self._holders):
            assert holders >= 0, f"block {block} has {holders} holders"
            assert (holders == 0) == (block in self._free), (
                f"block {block}: {holders} holders, free={block in self._free}"
            )
        assert len(self._by_key) == len(self._published)
        for block, (key, token_ids) in self._published.items():
            assert self._by_key[key] == block, f"block {block} is published under a key that finds another"
            assert len(token_ids) == self.block_size

    def holders(self, block: int) -> int:
        """How many sequences hold the block."""
        return self._holders[block]

    def _unpublish(self, block: int) -> None:
        published = self._published.pop(block, None)
        if published is not None:
            del self._by_key[published[0]]
