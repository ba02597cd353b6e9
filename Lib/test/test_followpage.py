"""A request through the source: each line is there, and what is said of it is so."""

import sys

import pytest

from conftest import TOP, need_module

need_module("docutils", "python3-docutils")
sys.path.insert(0, str(TOP / "Doc"))
import followpage                                                   # noqa: E402

pytestmark = pytest.mark.once


def test_what_the_library_did():
    common, exhausted, bought = (followpage.values(n, "malloc") for n in (3, 340, 21760))
    assert (common["used0"], common["used1"]) == (3, 4)
    assert (common["free0"], common["free1"]) == ("block 3", "block 4")
    assert (exhausted["ring0"], exhausted["ring1"]) == ("0.0", "0.1")
    assert (exhausted["arenas0"], exhausted["arenas1"]) == (1, 1)
    assert (bought["arenas0"], bought["arenas1"], bought["freepools1"]) == (1, 2, 63)
    freed = followpage.values(21760, "free")
    assert (freed["ring1"], freed["freepools1"], freed["arenas1"]) == ("empty", 64, 2)


CONTENT = """Objects/obmalloc.c PyObject_Free
> domain_free(PYMEM_DOMAIN_OBJ, ptr);
A block of {blocksize} bytes & nothing ``else``.""".splitlines()


def test_a_line_is_shown_with_its_number():
    (path, name, steps), = followpage.parts_of(CONTENT)
    html = followpage.part_html(path, name, steps, {"blocksize": 48})
    source = (TOP / path).read_text().splitlines()
    number = 1 + source.index("    domain_free(PYMEM_DOMAIN_OBJ, ptr);")
    assert (f'<span class="follow-line follow-here"><i>{number}</i><b>①</b>'
            "    domain_free(PYMEM_DOMAIN_OBJ, ptr);\n</span>") in html
    assert "A block of <b>48</b> bytes &amp; nothing <code>else</code>." in html


@pytest.mark.parametrize("content, message", [
    (["Objects/obmalloc.c PyObject_Free", "> domain_free(ptr);"],
     'the line "domain_free(ptr);" is there 0 times; name the line as it is now'),
    (["Objects/obmalloc.c PyObject_Released", "> return;"], "has 0 functions PyObject_Released"),
    (["Objects/pools.c take_block_from_ring", "> continue;"], "is there 3 times")])
def test_a_line_that_moved_ends_the_build(content, message):
    (path, name, steps), = followpage.parts_of(content)
    with pytest.raises(followpage.FollowError, match=message.replace("(", r"\(")
                       .replace(")", r"\)")):
        followpage.part_html(path, name, steps, {})
