"""Every program of frees.c, writes.c and legal.c: what it does, how it ends when pymem is
hardened, and with which domains, sizes and places it runs.

A pair of letters names the domain that serves the blocks and the one that is misused
(r: raw, m: mem, o: object).  The place is where the last act happens: here, in a thread
(for the raw domain without the GIL), in another interpreter, in a forked child.
"""

from typing import NamedTuple

# Ends.  The first five are the last words of the fatal error.
TWICE = "freed twice"
INSIDE = "inside a block"
NO_BLOCK = "not a block"
BEHIND = "written behind its end"
AFTER = "written after free"
FAULT = "SIGSEGV"
GOES_ON = "goes on"             # and found nothing wrong by itself
READS_NOTHING = "reads nothing old"     # and goes on

EACH = ("rr", "mm", "oo")
FORGIVEN = ("mo", "om", "rm", "ro")         # by CPython's own allocator
ALSO_SERVED = ("mr", "or")                  # by ours alone
HERE = ("here",)
ELSEWHERE = ("here", "thread", "interpreter", "child")

KiB = 1024
SMALL = (1, 15, 16, 17, 100, 511, 512)
MEDIUM = (513, 4000, 32 * KiB - 1)
LARGE = (32 * KiB + 1, 100_000, 1_000_000)
SIZES = (0, *SMALL, *MEDIUM, 32 * KiB, *LARGE)
BORDERS = (0, 1, 16, 512, 513, 32 * KiB, 100_000)
NOT_LARGE = (*SMALL, *MEDIUM)
FEW = (16, 512, 513, 100_000)
ONE = (100,)
# With an address that is aligned and not the first: more than 16 bytes.
WIDE = (33, 64, 511, 512, 513, 4000, 32 * KiB, *LARGE)


class Program(NamedTuple):
    name: str
    does: str
    end: str
    domains: tuple = EACH
    sizes: tuple = FEW
    places: tuple = HERE
    options: str = ""           # the value of PYMEM_HARDENED

    def cases(self):
        """[name, domains, size, place], each a process.  Where the last act happens, and by
        which domain, says little about sizes: there a few do."""
        few = [size for size in self.sizes if size in FEW] or self.sizes
        sizes = {"here": self.sizes, "thread": few, "child": few, "interpreter": few[:2]}
        return [[self.name, pair, size, place] for pair in self.domains
                for place in self.places
                for size in (sizes[place] if pair in EACH else
                             few if place == "here" else few[:1])]

    def few_cases(self):
        """For what runs a hundred times slower: of one domain."""
        few = [size for size in self.sizes if size in FEW] or self.sizes
        return [case for case in self.cases() if case[1] == self.domains[:3][-1]
                and case[2] in few and case[3] == "here"]


FREED_TWICE = [Program(name, does, TWICE, *variants) for name, does, *variants in [
    ("free_twice", "frees a block, and again at once",
     (*EACH, *FORGIVEN, *ALSO_SERVED), SIZES, ELSEWHERE),
    ("free_twice_with_one_between", "frees a block, another one, and the first again",
     EACH, BORDERS),
    ("free_twice_with_many_between", "frees 100 blocks, and the first again", EACH, BORDERS),
    ("free_twice_in_the_middle", "frees 100 blocks, and one in the middle again", EACH, BORDERS),
    ("free_twice_of_very_many", "takes 25,000 large blocks, and frees the last one twice",
     ("oo",), (33_000,)),
    ("free_twice_after_other_sizes", "frees a block again after 2,000 of other sizes",
     EACH, BORDERS),
    ("free_twice_calloced", "frees a block of calloc twice", EACH, BORDERS),
    ("free_twice_resized", "frees a block of realloc twice", EACH, BORDERS),
    ("free_twice_resized_to_zero", "frees a block twice that realloc cut to zero bytes"),
    ("free_twice_wiped", "frees a block, fills it with zeros, and frees it again",
     EACH, NOT_LARGE),
    ("free_after_move", "frees a block that realloc moved away", EACH, SIZES, ELSEWHERE),
    ("grow_freed", "grows a freed block", EACH, BORDERS, ELSEWHERE),
    ("shrink_freed", "shrinks a freed block", EACH, BORDERS),
    ("resize_freed_to_zero", "cuts a freed block to zero bytes"),
    ("realloc_freed_to_its_size", "asks realloc to leave a freed block as it is",
     EACH, BORDERS),
    ("realloc_after_move", "grows a block that realloc moved away", EACH, FEW, ELSEWHERE),
    ("free_object_twice", "frees the memory of an object that died", ("oo", "om"), (1, 600),
     ELSEWHERE),
    ("free_text_twice", "frees the text of Py_DecodeLocale() twice", ("rr",), ONE, ELSEWHERE),
]]

INSIDE_A_BLOCK = [Program(name, does, INSIDE, *variants) for name, does, *variants in [
    ("free_inside", "frees what lies 16 bytes behind a block's start",
     (*EACH, *FORGIVEN, *ALSO_SERVED), WIDE, ELSEWHERE),
    ("free_in_the_middle", "frees the middle of a block", EACH, WIDE),
    ("free_last_bytes", "frees the last 16 bytes of a block", EACH, WIDE),
    ("free_inside_freed", "frees a block, and then what lies 16 bytes behind its start",
     EACH, WIDE, ELSEWHERE),
    ("realloc_inside", "grows what lies 16 bytes behind a block's start", EACH, WIDE),
    ("shrink_inside", "shrinks what lies 16 bytes behind a block's start", EACH, WIDE),
    ("realloc_inside_freed", "grows what lies 16 bytes behind a freed block's start",
     EACH, WIDE),
    ("free_inside_with_forged_header", "writes a header of glibc's into a block, and frees "
     "what lies behind it", EACH, WIDE[1:]),
    ("free_second_page", "frees the second page of a large block", EACH, LARGE),
    ("free_text_of_bytes", "frees the text in a bytes object", EACH, (32, 600)),
    ("free_object_without_its_header", "frees a list without the header of the garbage "
     "collector", EACH, ONE),
    ("free_at_8", "frees what lies 8 bytes behind a block's start", EACH, (100, 600, 100_000)),
    ("free_at_1", "frees the second byte of a block", EACH, (100, 600, 100_000)),
    ("free_freed_at_8", "frees what lies 8 bytes behind a freed block's start",
     EACH, (100, 600, 100_000)),
]]

NOT_A_BLOCK = [Program(name, does, NO_BLOCK, *variants) for name, does, *variants in [
    ("free_stack", "frees an array on the stack", EACH, ONE, ELSEWHERE),
    ("realloc_stack", "grows an array on the stack", EACH, ONE),
    ("free_static", "frees a static array", EACH, ONE, ELSEWHERE),
    ("realloc_static", "grows a static array", EACH, ONE),
    ("free_static_with_forged_header", "writes headers of glibc's into a static array, and "
     "frees what lies between", EACH, ONE),
    ("free_constant", "frees a constant", EACH, ONE),
    ("free_function", "frees a function", EACH, ONE),
    ("free_of_thread", "frees a variable of the thread", EACH, ONE, ("here", "child")),
    ("free_malloced", "frees a block of the C library's malloc", EACH, FEW, ELSEWHERE),
    ("realloc_malloced", "grows a block of the C library's malloc", EACH, FEW),
    ("free_mapped", "frees a mapping", EACH, ONE),
    ("free_unmapped", "frees an address where nothing is mapped", EACH, ONE),
    ("free_low", "frees the address 16", EACH, ONE),
    ("free_wild", "frees a number that is no address", EACH, ONE, ELSEWHERE),
    ("realloc_wild", "grows a number that is no address", EACH, ONE),
    ("free_impossible", "frees an address that the processor refuses", EACH, ONE),
    ("free_of_kernel", "frees an address of the kernel", EACH, ONE),
    ("free_none", "frees None, which is static", EACH, ONE),
    ("free_type", "frees a type, which is static", EACH, ONE),
    ("free_page_before", "frees the page before a large block", EACH, LARGE),
    ("free_page_behind", "frees the page behind a large block", EACH, LARGE),
]]

WRITTEN_BEHIND = [Program(name, does, BEHIND, *variants) for name, does, *variants in [
    ("write_behind", "changes the byte behind a block's end", (*EACH, *FORGIVEN, *ALSO_SERVED),
     SIZES, ELSEWHERE),
    ("write_bit_behind", "changes a bit behind a block's end", EACH, BORDERS),
    ("write_word_behind", "changes eight bytes behind a block's end", EACH, BORDERS),
    ("write_behind_calloced", "changes the byte behind a block of calloc", EACH, BORDERS),
    ("write_behind_grown", "grows a block by a byte, and changes the byte behind",
     EACH, BORDERS),
    ("write_behind_moved", "doubles a block, and changes the byte behind", EACH, BORDERS),
    ("write_behind_shrunk", "shrinks a block by a byte, and changes the byte behind",
     EACH, BORDERS[1:]),
    ("write_behind_zero", "cuts a block to zero bytes, and changes the byte behind"),
    ("write_behind_and_grow", "changes the byte behind a block, and grows it", EACH, BORDERS,
     ELSEWHERE),
    ("write_behind_and_shrink", "changes the byte behind a block, and shrinks it",
     EACH, BORDERS),
    ("write_behind_and_keep_size", "changes the byte behind a block, and asks realloc to "
     "leave it as it is", EACH, BORDERS),
    ("write_behind_and_resize_to_zero", "changes the byte behind a block, and cuts it to zero "
     "bytes"),
    ("write_behind_bytes", "changes the byte behind a bytes object, which dies", ("oo",),
     BORDERS[1:]),
    ("write_behind_items", "changes the byte behind a list's items; the list dies", ("mm",),
     (1, 2, 31, 64, 5000)),
    ("write_before", "changes the byte before a block; the neighbour is freed", EACH,
     (15, 31, 63, 511)),
    ("write_last_byte_of_pages", "changes the last byte of a large block's pages", EACH,
     LARGE),
]]

OFF_THE_PAGES = [Program(name, does, FAULT, EACH, (*LARGE, 1024 * KiB), ELSEWHERE) for name, does in [
    ("write_past_pages", "changes the byte behind a large block's pages"),
    ("read_past_pages", "reads the byte behind a large block's pages"),
    ("write_before_pages", "changes the byte before a large block"),
    ("read_before_pages", "reads the byte before a large block"),
    ("write_freed_pages", "changes a byte of a freed large block"),
    ("read_freed_pages", "reads a byte of a freed large block"),
    ("read_moved_pages", "reads a byte of a large block that realloc moved away"),
]]

WRITTEN_AFTER_FREE = [Program(name, does, AFTER, *variants) for name, does, *variants in [
    ("write_freed", "changes the first byte of a freed block", EACH, (0, *NOT_LARGE),
     ("here", "thread")),
    ("write_freed_last", "changes the last byte of a freed block", EACH, NOT_LARGE),
    ("write_freed_middle", "changes a byte in the middle of a freed block", EACH, (17, 513)),
    ("write_freed_bit", "changes a bit of a freed block", EACH, (17, 513)),
    ("write_freed_whole", "fills a freed block", EACH, (17, 513)),
    ("count_freed", "counts a freed block's first word up, as Py_INCREF() does",
     EACH, (17, 513)),
    ("write_freed_found_by_calloc", "changes a freed block; calloc hands it out",
     EACH, (17, 513)),
    ("write_freed_found_by_realloc", "changes a freed block; realloc hands it out",
     EACH, (17, 513)),
    ("write_moved", "changes a block that realloc moved away", EACH, (17, 513)),
    ("write_freed_object", "changes a bytes object that died", ("oo",), (17, 600)),
]]

# The program looks itself, and goes on where it sees nothing old.
READS = [Program(name, does, READS_NOTHING, *variants) for name, does, *variants in [
    ("read_freed", "reads a freed block", EACH, (4, *NOT_LARGE[1:]), ("here", "thread")),
    ("read_moved", "reads a block that realloc moved away", EACH, NOT_LARGE[1:]),
    ("read_next_owner", "reads what the next owner of a block gets", EACH,
     (*NOT_LARGE[1:], 100_000)),
    ("read_shrunk", "reads the part that realloc cut off", EACH, (512, 4000)),
    ("read_address_in_freed", "looks for an address in freed blocks", EACH, (16, 512, 4000)),
]]

LEGAL = [Program(name, does, GOES_ON, *variants) for name, does, *variants in [
    ("use", "takes a block, fills it, frees it", EACH, SIZES, ELSEWHERE),
    ("pass_on", "has a block freed elsewhere, and by a domain that CPython forgives",
     (*EACH, *FORGIVEN), SIZES, ELSEWHERE),
    ("free_nothing", "frees NULL", EACH, ONE, ELSEWHERE),
    ("realloc_nothing", "has realloc give a block for NULL", EACH, BORDERS),
    ("zero_bytes_are_blocks", "asks for zero bytes a hundred times", (*EACH, "mo", "om"),
     ONE),
    ("realloc_to_zero_keeps_a_block", "cuts a block to zero bytes, and frees it",
     EACH, BORDERS),
    ("calloc_gives_zeros", "asks calloc for blocks that were used before", EACH, BORDERS),
    ("blocks_are_aligned", "looks at the addresses of blocks", EACH, BORDERS),
    ("realloc_keeps_contents", "grows a block to 300,000 bytes and shrinks it to one",
     (*EACH, "mo", "om"), ONE),
    ("realloc_by_one", "grows a block by one byte forty times", EACH, BORDERS),
    ("realloc_to_its_size", "asks realloc twenty times to leave a block as it is",
     EACH, BORDERS),
    ("impossible_requests_fail", "asks for more than there can be", EACH, FEW),
    ("many_blocks", "frees thousands of blocks in a mixed order", (*EACH, "mo", "om"),
     (0, 1, 16, 511, 513, 32 * KiB + 1)[1:]),
    ("very_many_blocks", "takes and frees 25,000 large blocks", ("oo",), (33_000,)),
    ("threads_work", "takes and frees in four threads at once", EACH, (16, 513, 100_000)),
    ("free_decoded_text", "frees the text of Py_DecodeLocale()", ("rr",), ONE, ELSEWHERE),
    ("free_encoded_text", "frees the text of Py_EncodeLocale()", ("mm",), ONE, ELSEWHERE),
    ("resize_objects", "makes, resizes and drops lists and bytes objects", ("oo",),
     (1, 500, 5000)),
    ("hook_comes_and_goes", "sets a hook around the object domain, and takes it off",
     ("oo", "om"), FEW),
]]

# No program may do so, and CPython's own ends some of them.
LET_PASS = [
    Program("write_back_what_is_behind", "reads the byte behind a block, and writes it as it "
            "is", GOES_ON, EACH, (15, 17, 100, 511, 4000, 100_000)),
    Program("free_without_the_gil", "has the raw domain free a small block of another one, in "
            "a thread without the GIL", GOES_ON, ALSO_SERVED, (1, 16, 512)),
    Program("pass_to_raw", "has the raw domain free a block of another one", GOES_ON,
            ALSO_SERVED, SIZES, ELSEWHERE),
    Program("free_what_malloc_gave", "frees a block of the C library's malloc, with "
            "foreign=1", GOES_ON, EACH, FEW, ELSEWHERE, "foreign=1"),
]

GROUPS = {
    "freed twice": FREED_TWICE,
    "freed inside a block": INSIDE_A_BLOCK,
    "freed, but no block": NOT_A_BLOCK,
    "written behind the end": WRITTEN_BEHIND,
    "off a large block's pages": OFF_THE_PAGES,
    "written after free": WRITTEN_AFTER_FREE,
    "read after free": READS,
    "legal, or forgiven by CPython": LEGAL,
    "not legal, but let pass": LET_PASS,
}
PROGRAMS = [program for group in GROUPS.values() for program in group]
