"""Every attack of attacks.c: what it does and wants, and whether the hardened mode lets it
get that.

"never" is certain: none of a thousand runs gets it.  The share of the others is measured.
"""

from typing import NamedTuple

OWNERS = "two owners for one block"
ADDRESS = "an address of the attacker's choice"
RECORDS = "a block over the allocator's records"
CONTENTS = "what was in a freed block"
LAYOUT = "a layout that is foretold"
NEIGHBOUR = "a neighbour's block"

SMALL, MEDIUM, LARGE = 48, 2000, 100_000
BLOCKS = (SMALL, MEDIUM)
ALL = (SMALL, MEDIUM, LARGE)
# glibc has its lists of the first thread in a block of this size.
CACHE = (0x280,)


class Attack(NamedTuple):
    name: str
    does: str
    wants: str
    sizes: tuple = BLOCKS
    never: bool = True          # in hardened mode


ATTACKS = [
    Attack("second_free_at_once", "a second free at once", OWNERS, ALL),
    Attack("second_free_after_another", "a second free, another block's between", OWNERS, ALL),
    Attack("second_free_late", "a second free after many of others", OWNERS, ALL),
    Attack("second_free_wiped", "a second free of a block that was filled with zeros", OWNERS),
    Attack("second_free_in_thread", "a second free in another thread", OWNERS, ALL),
    Attack("second_free_of_reused", "a second free when somebody else has the block", OWNERS,
           ALL, False),
    Attack("realloc_of_freed", "realloc of a freed block", OWNERS, ALL),
    Attack("free_inside_freed", "a free inside a freed block", OWNERS, ALL),
    Attack("free_inside_live", "a free inside a live block", OWNERS, ALL),
    Attack("free_inside_live_forged", "the same behind a forged header", OWNERS, ALL),
    Attack("link_by_one_byte", "one byte written into a freed block", OWNERS),
    Attack("free_forged_block", "a free of static memory with forged headers", ADDRESS),
    Attack("link_forged", "an address written into a freed block", ADDRESS),
    Attack("masked_link_forged", "the same, masked as glibc's links are", ADDRESS),
    Attack("overflow_into_freed", "an overflow with an address into a freed neighbour",
           ADDRESS),
    Attack("masked_overflow_into_freed", "the same, masked as glibc's links are", ADDRESS),
    Attack("underflow_into_records", "an address written before a pool's first block",
           ADDRESS),
    Attack("free_pool_header", "a free of the pool's header (of CPython's own)", RECORDS),
    Attack("free_boundary", "a free of a boundary below a block, 4 KiB to 64 MiB", RECORDS),
    Attack("link_to_pool_header", "the pool's header written into a freed block as an "
           "address", RECORDS),
    Attack("link_to_thread_cache", "glibc's lists of a thread, the same way", RECORDS),
    Attack("free_thread_cache", "a free of glibc's lists of a thread", RECORDS, CACHE),
    Attack("stale_read", "a read of a freed block", CONTENTS, ALL),
    Attack("next_owner_reads", "reads of 1,000 new blocks", CONTENTS, ALL),
    Attack("moved_read", "a read where realloc moved a block away", CONTENTS, ALL),
    Attack("addresses_left", "reads of freed blocks, for an address", CONTENTS),
    Attack("addresses_for_next_owner", "reads of 1,000 new blocks, for an address", CONTENTS),
    Attack("write_seen_by_next_owner", "a write into a freed block that its next owner reads",
           CONTENTS),
    Attack("reuse_at_once", "a block of the next request", LAYOUT, ALL),
    Attack("reuse_within_100", "a block of 100 requests", LAYOUT, BLOCKS, False),
    Attack("reuse_within_10000", "a block of 10,000 requests", LAYOUT, (SMALL,), False),
    Attack("reuse_after_20_frees", "a block of 100 requests, 20 others freed before", LAYOUT,
           ALL, False),
    Attack("reuse_with_frees", "a block of 20,000 requests, with frees between", LAYOUT,
           BLOCKS, False),
    Attack("neighbours_foretold", "the distance of two blocks that follow each other", LAYOUT,
           BLOCKS, False),
    Attack("layout_of_sibling", "an address that another child of the parent told", LAYOUT,
           ALL, False),
    Attack("overflow_into_next_request", "an overflow into the block of the next request, "
           "which is used at once", NEIGHBOUR, ALL, False),
    Attack("overflow_into_live", "an overflow into a block that lies behind; the buffer is "
           "freed before it is used", NEIGHBOUR),
    Attack("write_over_the_gap", "a write into a block that lies behind, which leaves what is "
           "between as it was", NEIGHBOUR, BLOCKS, False),
    Attack("nul_behind", "a zero byte behind the end, the same way", NEIGHBOUR),
    Attack("read_next_request", "a read on into the block of the next request", NEIGHBOUR,
           ALL, False),
]
