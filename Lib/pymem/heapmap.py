"""A map of the heap: arenas as rows of pools, coloured by size class and fill.

A row is an arena, a cell one of its pools, as wide as it is large.  Colour tells the
size of its blocks, the filled part how many are used.  Several heaps are the same
process at several moments; an arena that was there before and is not now was
returned to the system.
"""

import base64
import struct

from pymem.heap import arena_order
from pymem.page import write_page
from pymem.picture import GRAY, Picture, class_color, class_number

ROW, CELLS, LEFT = 16, 640, 230     # height of a row, its width, where cells begin
PALE = 0.77             # so much white is in the colour of blocks that are free


class Frame:
    """A heap and what it is called."""

    def __init__(self, label, heap):
        self.label, self.heap = label, heap


def summary(heap):
    states = {"free": 0, "empty": 0, "used": 0, "full": 0}
    for arena in heap.arenas:
        for pool in arena.pools:
            states[pool.state] += 1
    return {"arenas": len(heap.arenas), **states, "blocks": heap.used_blocks,
            "used_bytes": heap.used_bytes, "held_bytes": heap.held_bytes}


def summary_text(heap, returned=0):
    counts = summary(heap)
    text = (f"{counts['arenas']} arenas of {counts['held_bytes'] / 2**20:.1f} MiB; pools: "
            f"{counts['full']} full, {counts['used']} partly used, {counts['empty']} empty, "
            f"{counts['free']} free; {counts['blocks']:,} blocks of "
            f"{counts['used_bytes'] / 2**20:.1f} MiB used")
    return text + (f"; {returned} arenas returned" if returned else "")


def rows(frames):
    """For each frame: (arena or None, the arena as it was last) of every arena that was
    in a frame up to this one."""
    seen, result = {}, []
    for frame in frames:
        now = {arena_order(arena): arena for arena in frame.heap.arenas}
        seen.update(now)
        result.append([(now.get(key), arena) for key, arena in sorted(seen.items())])
    return result


def headings(arenas):
    """The owner above the first arena of each heap, where there are several of its kind;
    None above others."""
    owners = {}
    for _, was in arenas:
        owners.setdefault(was.is_medium, set()).add(was.owner)
    last = None
    for now, was in arenas:
        owner = was.is_medium, was.owner
        is_new = owner != last and len(owners[was.is_medium]) > 1
        yield (was.owner if is_new else None), now, was
        last = owner


def legend(frames):
    """Sizes of blocks that occur, with how many pools have them at the end."""
    counts = {}
    for frame in frames:
        counts = dict.fromkeys(counts, 0)
        for pool in frame.heap.pools:
            counts[pool.blocksize] = counts.get(pool.blocksize, 0) + 1
    return sorted(counts.items())


def draw_pool(picture, pool, x, y, width):
    if not pool.blocksize:
        picture.rectangle(x, y, width, ROW - 3, "#ffffff", GRAY, str(pool))
        return
    picture.rectangle(x, y, width, ROW - 3, class_color(pool.blocksize, PALE),
                      class_color(pool.blocksize), str(pool))
    filled = (ROW - 3) * pool.fill
    if filled:
        picture.rectangle(x, y + ROW - 3 - filled, width, filled,
                          class_color(pool.blocksize), title=str(pool))


def draw_arena(picture, arena, was, y):
    size = was.size
    picture.text(8, y + 11, f"{was.kind} {was.address:#x}", 11)
    if arena is None:
        picture.rectangle(LEFT, y, CELLS, ROW - 3, "#ffffff", GRAY, "returned", True)
        picture.text(LEFT + 6, y + 10, "returned", 9, "#777777")
        return
    picture.text(LEFT - 8, y + 11, f"{arena.used_bytes / size:4.0%}", 11, anchor="end")
    for pool in arena.pools:
        x = LEFT + CELLS * (pool.address - arena.address) / size
        draw_pool(picture, pool, x, y, CELLS * arena.pool_size / size)


def draw(frames):
    picture, y = Picture(LEFT + CELLS + 10), 22
    for frame, arenas in zip(frames, rows(frames)):
        picture.text(8, y, frame.label, 14, bold=True)
        y += 17
        picture.text(8, y, summary_text(frame.heap,
                                        sum(now is None for now, _ in arenas)), 11)
        y += 10
        for owner, arena, was in headings(arenas):
            if owner:
                picture.text(8, y + 11, owner, 11, bold=True)
                y += ROW
            draw_arena(picture, arena, was, y)
            y += ROW
        y += 26
    x = 8
    picture.text(x, y, "Bytes in a block (pools at the end)", 11, bold=True)
    y += 8
    for size, count in legend(frames):
        if x > LEFT + CELLS - 90:
            x, y = 8, y + 18
        picture.rectangle(x, y, 12, 12, class_color(size))
        picture.text(x + 16, y + 10, f"{size:,} ({count:,})", 10)
        x += 92
    picture.below(y + 20)
    return picture


# In a terminal.

FILLS = " ▁▂▃▄▅▆▇█"


def pool_letter(pool, colored):
    if not pool.blocksize:
        return "·"
    letter = FILLS[max(1, round(pool.fill * 8))] if pool.nused else "_"
    if not colored:
        return letter
    color = class_color(pool.blocksize)
    red, green, blue = (int(color[i:i + 2], 16) for i in (1, 3, 5))
    return f"\033[38;2;{red};{green};{blue}m{letter}\033[0m"


def terminal_lines(frames, colored=True):
    for frame, arenas in zip(frames, rows(frames)):
        yield f"{frame.label}: " + summary_text(
            frame.heap, sum(now is None for now, _ in arenas))
        for owner, arena, was in headings(arenas):
            if owner:
                yield f"{owner}:"
            cells = "returned" if arena is None else "".join(
                pool_letter(pool, colored) for pool in arena.pools)
            yield f"{was.address:#16x} {was.kind:6} {cells}"
        yield ""
    yield "a cell is a pool: · free, _ empty, ▁ to █ by how many of its blocks are used"


# A page to step through time with.

def pool_record(pool):
    """[address, bytes in a block, blocks, cut, used, free list as base64]"""
    free = "" if not pool.free else base64.b64encode(
        struct.pack(f"<{len(pool.free)}H", *pool.free)).decode()
    return (hex(pool.address), pool.blocksize, pool.nblocks, pool.ncut, pool.nused,
            "broken" if pool.free is None else free, hex(pool.first_block))


def page_data(frames):
    """Pools that are equal in several frames are there once."""
    numbers, result = {}, []
    for frame, arenas in zip(frames, rows(frames)):
        result.append({
            "label": frame.label, "time": frame.heap.time, "summary": summary(frame.heap),
            "arenas": [{
                "address": hex(was.address), "kind": was.kind, "size": was.size,
                "owner": was.owner,
                "poolSize": was.pool_size, "returned": arena is None,
                "skipped": was.pool_address - was.address,
                "used": arena.used_bytes if arena else 0,
                "pools": [numbers.setdefault(pool_record(pool), len(numbers))
                          for pool in (arena.pools if arena else ())]}
                for arena, was in arenas]})
    sizes = [size for size, _ in legend(frames)]
    return {"frames": result, "pools": list(numbers),
            "colors": {size: (class_color(size), class_number(size)) for size in sizes}}


def facts_of(frames):
    end = next((frame for frame in frames if frame.label == "at the end"), frames[-1])
    return {"started": frames[0].heap.time, "seconds": frames[-1].heap.time - frames[0].heap.time,
            "bytes": end.heap.used_bytes, "blocks": end.heap.used_blocks, "moment": end.label,
            "peak_bytes": max(frame.heap.used_bytes for frame in frames)}


def write(frames, path, form, facts=()):
    """facts: what pymem.about says of the program."""
    if form == "html":
        write_page("heapmap.html", page_data(frames), path, {**dict(facts), **facts_of(frames)})
    else:
        draw(frames).write(path, form, "heap map")
