"""Threads and forks: the raw domain, which needs no GIL."""

from pymem.conformance.promises import C_API, RAW, expect, promise

RAW_ONLY = dict(domains=(RAW,), driver=True)
WHERE = C_API + "#raw-memory-interface"


def expect_no(problem):
    expect(problem is None, problem)


@promise("Any thread may ask for, resize and free raw blocks, without the GIL, also those "
         "that another thread asked for.", WHERE, **RAW_ONLY)
def threads_share_blocks(api, domain):
    expect_no(api.threads(domain, 8, 150000, 0))


@promise("A process may fork while other threads allocate; the child goes on.",
         WHERE + "; os.fork() in docs.python.org/3/library/os.html#os.fork", **RAW_ONLY)
def fork_while_threads_allocate(api, domain):
    expect_no(api.threads(domain, 4, 1, 30))


@promise("A block outlives the thread that asked for it.", WHERE, **RAW_ONLY)
def blocks_of_an_ended_thread_stay(api, domain):
    expect_no(api.blocks_of_an_ended_thread(domain))
