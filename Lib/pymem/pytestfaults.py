"""The fixture failing_memory of pytestplugin.py.

    with failing_memory.nth(3):         the third request of the block fails
    with failing_memory.share(0.01):    each with this probability
    for k in failing_memory.each():     the first one, then the second, until none is left
        with k:
            ...

The blocks are those of pymem.faults.Failing.
"""

from pymem.faults import Failing


class Block(Failing):
    def __init__(self, domain, number=None, **faults):
        super().__init__(domain, **faults)
        self.number = number            # of the first request that fails; None: by chance

    def __str__(self):
        counts = self.counts
        which = "" if self.number is None else f" (number {self.number:,})"
        return f"{counts['failed']:,} of {counts['requests']:,} requests of the {self.domain} " \
               f"domain failed{which}"


class FailingMemory:
    def __init__(self):
        self.last = None                # block

    def block(self, *arguments, **faults):
        self.last = Block(*arguments, **faults)
        return self.last

    def nth(self, number, count=1, domain="mem"):
        """A block whose request of that number fails, from 1; and the count - 1 after it."""
        if number < 1 or count < 1:
            raise ValueError("nth() takes the number of a request, and how many fail: both "
                             "from 1")
        return self.block(domain, number, fail_from=number, fail_count=count)

    def share(self, share, seed=0, domain="mem"):
        """A block in which each request fails with a probability; a seed, the same ones."""
        return self.block(domain, fail_share=share, seed=seed)

    def each(self, count=1, domain="mem"):
        """nth(1), nth(2), ..., until a block ran in which none failed."""
        number, block = 0, None
        while block is None or block.hit:
            number += 1
            block = self.nth(number, count, domain)
            yield block
            if block.counts is None:
                raise RuntimeError("for k in failing_memory.each(): the code that is tested "
                                   "stands in a block \"with k:\"")

    def add_to(self, report):
        """To the report of a test that failed."""
        if self.last is not None and self.last.hit and hasattr(report.longrepr, "addsection"):
            report.longrepr.addsection("pymem: memory that failed", str(self.last))
