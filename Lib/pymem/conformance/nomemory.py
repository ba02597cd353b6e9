"""Memory that runs out: by a limit of the system, by hooks and arenas that fail."""

from pymem.conformance.promises import C_API, EACH, RAW, expect, promise

MIB = 1 << 20
FAMILIES = C_API + "#raw-memory-interface, #memory-interface, #object-allocators"


@promise("Where memory runs out requests give NULL; every block keeps what is in it, and "
         "what is freed can be had again.", FAMILIES, driver=True)
def limit_of_the_system(api, domain):
    for size in (24, 100, 500, 5000, 100000, 3 * MIB):
        problem = api.exhaust(domain, size, 48 * MIB)
        expect(problem is None, problem)


@promise("Wherever a limit meets a request, nothing crashes and nothing is lost.", FAMILIES,
         driver=True)
def every_limit_of_the_system(api, domain):
    """Another request fails with each: of a block, of what it lies in, of tables."""
    for i in range(40):
        problem = api.exhaust(domain, 64 + 977 * i, MIB + i * 68 * 1024)
        expect(problem is None, problem)


def mixed_calls(api, domain):
    """Requests of all kinds, each of which may fail; how many did."""
    kept, failed = [], 0
    for i, size in enumerate((30, 600, 513, 100000, 0, 512, 700, 40000)):
        block = api.calloc(domain, 1, size) if i % 3 == 0 else api.malloc(domain, size)
        if block is None:
            failed += 1
            continue
        mark = bytes([i + 1]) * size
        api.write(block, mark)
        kept.append((block, mark))
    for i, (block, mark) in enumerate(kept):
        moved = api.realloc(domain, block, len(mark) * 2 + 3)
        failed += moved is None
        kept[i] = (block if moved is None else moved, mark)
    for block, mark in kept:
        expect(api.read(block, len(mark)) == mark, "a block of %d bytes has other contents"
               % len(mark))
        api.free(domain, block)
    return failed


@promise("Whichever request of the raw domain fails, once or from there on: NULL, and all "
         "other blocks are whole.",
         C_API + "#customize-memory-allocators", interpreter=True)
def each_request_of_the_raw_domain_fails(api, domain):
    for on in (False, True):
        for k in range(1, 20):
            api.hook(RAW, k, on)
            failed = mixed_calls(api, domain)
            api.unhook(RAW)
            api.take_calls()
            expect(failed <= (16 if on else 1),
                   "one request of the raw domain failed, and %d calls gave NULL" % failed)
    expect(mixed_calls(api, domain) == 0, "afterwards a call gives NULL")


@promise("Whichever request of a domain fails: NULL, and all other blocks are whole.",
         C_API + "#customize-memory-allocators", domains=EACH, interpreter=True)
def each_request_fails(api, domain):
    for k in range(1, 20):
        api.hook(domain, k)
        failed = mixed_calls(api, domain)
        api.unhook(domain)
        calls = api.take_calls()
        expect(failed == (k <= 16 and any(what != "free" for _, what, *_ in calls[k - 1:k])),
               "call %d failed in the hook, and %d calls gave NULL" % (k, failed))
    expect(mixed_calls(api, domain) == 0, "afterwards a call gives NULL")
