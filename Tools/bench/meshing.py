#!/usr/bin/python3
"""What meshing would save: two pools of a class whose blocks in use lie at different
places could share their pages of memory.

    PYTHONPATH=build build/pymem-run python3 Tools/bench/meshing.py [--hours=H,...]

Two kinds of heaps: those of day.py after some hours, and one of blocks of 48 to 128 bytes
of which 1 % is left.  For each: pools that are used and not full; how many of all pairs of
a class could be meshed, by a sample; how many pools find a partner, if each is tried with
up to 64 others; the pages of 4 KiB that blocks in use need now, and how many fewer they
would need then.
"""

import argparse
import random
from array import array
from collections import defaultdict

from day import Day, STEPS_IN_DAY
from pymem.capi import free, malloc
from pymem.heap import Heap

PAGE, POOL = 4096, 16384
TRIES = 64


def blocks_of_pages(pool):
    """For each page of a pool the bits of the blocks that have a part of it."""
    first, size, bits = pool.first_block - pool.address, pool.blocksize, [0] * (POOL // PAGE)
    for number in range(pool.nblocks):
        start = first + number * size
        for page in range(start // PAGE, (start + size - 1) // PAGE + 1):
            bits[page] |= 1 << number
    return bits


def pages_needed(used, pages):
    """The first one has the pool's header."""
    return 1 + sum(bits & used != 0 for bits in pages[1:])


def used_blocks(pool):
    """As bits."""
    states = bytes(state == ord("u") for state in reversed(pool.block_states().encode()))
    return int(states.translate(b"01" + bytes(254)), 2)


def sparse_pools(heap):
    """{blocksize: [(bits, pool)]}"""
    classes = defaultdict(list)
    for arena in heap.arenas:
        if not arena.is_medium:
            for pool in arena.pools:
                if pool.state == "used":
                    classes[pool.blocksize].append((used_blocks(pool), pool))
    return classes


def mesh(pools):
    """Pairs, as Mesh finds them: in random order each one is tried with up to TRIES."""
    pools = random.sample(pools, len(pools))
    half = len(pools) // 2
    left, right, pairs, ntries = pools[:half], pools[half:], [], 0
    for shift in range(min(TRIES, half)):
        alone = []
        for i, (bits, pool) in enumerate(left):
            j = (i + shift) % len(right) if right else 0
            ntries += 1
            if right and not bits & right[j][0]:
                pairs.append(((bits, pool), right.pop(j)))
            else:
                alone.append((bits, pool))
        left = alone
    return pairs, ntries


def study(heap):
    npools = npairs = nsampled = ndisjoint = ntries = before = saved = 0
    for pools in sparse_pools(heap).values():
        npools += len(pools)
        pages = blocks_of_pages(pools[0][1])
        before += sum(pages_needed(bits, pages) for bits, _ in pools)
        if len(pools) < 2:
            continue
        for _ in range(len(pools)):
            one, other = random.sample(pools, 2)
            nsampled += 1
            ndisjoint += not one[0] & other[0]
        pairs, tried = mesh(pools)
        ntries += tried
        npairs += len(pairs)
        saved += sum(pages_needed(one, pages) + pages_needed(other, pages)
                     - pages_needed(one | other, pages)
                     for (one, _), (other, _) in pairs)
    return npools, ndisjoint / max(nsampled, 1), npairs, ntries, before, saved


def report(name, heap):
    small = [arena for arena in heap.arenas if not arena.is_medium]
    live = sum(arena.used_bytes for arena in small)
    npools, share, npairs, ntries, before, saved = study(heap)
    print(f"{name:22}{live / 1e6:8.1f}{npools:8}{100 * share:9.1f}%{npairs:8}"
          f"{ntries:10,}{before * PAGE / 1e6:9.1f}{saved * PAGE / 1e6:9.1f}", flush=True)


def left_of_a_heap(one_of):
    blocks = array("Q", (malloc(random.randrange(48, 129)) for _ in range(700_000)))
    stay = array("Q")
    for p in blocks:
        if random.randrange(one_of):
            free(p)
        else:
            stay.append(p)
    return stay


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", default="12,18,21,24")
    options = parser.parse_args()
    hours = set(map(int, options.hours.split(",")))
    random.seed(1)
    print(f"{'':22}{'MB live':>8}{'pools':>8}{'disjoint':>10}{'meshed':>8}{'tries':>10}"
          f"{'MB now':>9}{'saved':>9}")
    day = Day(1)
    for step in range(STEPS_IN_DAY):
        day.step(step)
        if (step + 1) % 60 == 0 and (step + 1) // 60 in hours:
            report(f"day, after {(step + 1) // 60} hours", Heap.take())
    del day
    for one_of in (10, 20, 100, 1000):
        stay = left_of_a_heap(one_of)
        report(f"of a heap 1 in {one_of:,}", Heap.take())
        for p in stay:
            free(p)


if __name__ == "__main__":
    main()
