"""The statistics text: CPython's, to the column."""

import re

import pytest

from conftest import (ARENA_SIZE, BUILD, IS_64_BITS, POOL_OVERHEAD, POOL_SIZE, SIZE_CLASSES, Child,
                      clean_environment, run as run_command)

NUMBER = r"[\d,]+"


def stats(child, tmp_path, code):
    path = tmp_path / child.implementation
    result = child.run(f"path = {str(path)!r}\n{code}")
    assert result.returncode == 0, result.stderr
    return path.read_text(), result.stdout


def skeleton(text):
    """The text with numbers masked and rows of size classes left out."""
    text = text.split("arena map counts")[0]
    lines = [line for line in text.splitlines()
             if not re.match(r" +\d+ +\d+ +\d+ +\d+ +\d+$", line)]
    return [re.sub(r" *[\d,]+| +=", " N", line) for line in lines]


def rows(text):
    return {int(size): tuple(map(int, rest.split())) for size, rest in
            re.findall(r"^ +\d+ +(\d+) +(\d+ +\d+ +\d+)$", text, re.M)}


def test_lines_have_one_form(child, tmp_path):
    text, _ = stats(child, tmp_path, "print(api.malloc_stats(path))")
    labels = re.findall(r"^(.{35})= *([\d,]+)$", text, re.M)
    assert len(labels) >= 12
    for line in text.splitlines()[1:]:
        assert "=" not in line or len(line) == 57, line


def test_form_is_cpythons(tmp_path, oracle):
    ours, cpython = (stats(child, tmp_path, "api.malloc_stats(path)")[0]
                     for child in (Child("ours"), oracle))
    assert skeleton(ours) == skeleton(cpython)


def test_result_says_whether_it_printed(child, tmp_path):
    _, out = stats(child, tmp_path, "print(api.malloc_stats(path))")
    assert out == "1\n"
    path = tmp_path / "no pymalloc"
    result = child.run(f"print(api.malloc_stats({str(path)!r}))",
                       PYTHONMALLOC="malloc")
    assert result.stdout == "0\n"
    assert path.read_text() == ""


@pytest.mark.parametrize("size, count", [(16, 1), (16, 1021), (16, 1022),
                                         (48, 2000), (512, 31), (512, 100),
                                         (496, 32), (272, 700)])
def test_rows_after_the_same_requests(tmp_path, size, count, oracle):
    """Blocks of one size more, in a separate process: the row's pools, blocks
    in use and available are as many more as in CPython."""
    grown = []
    for child in (Child("ours"), oracle):
        text, _ = stats(child, tmp_path, f"""
fill = [api.malloc(2, {size}) for _ in range(20000)]  # what pools have left
for p in fill[10000:]:
    api.free(2, p)
api.malloc_stats(path)
more = [api.malloc(2, {size}) for _ in range(10000 + {count})]
api.malloc_stats(path)
""")
        first, second = text.split("Small block threshold")[1:]
        before, after = rows(first)[size], rows(second)[size]
        grown.append((after[0] - before[0], after[1] - before[1]))
        per_pool = (POOL_SIZE - POOL_OVERHEAD) // size
        assert after[1] + after[2] == after[0] * per_pool
    assert grown[0][1] >= 10000 + count - 1
    assert abs(grown[0][0] - grown[1][0]) <= 1 + 20 // per_pool


PROGRAMS = {
    "nothing": "pass",
    "every size": "kept = [bytes(i % 600) for i in range(100000)]",
    "with holes": "kept = [bytes(i % 480) for i in range(100000)]; del kept[::3]",
    "objects": "class A: pass\nkept = [A() for _ in range(50000)]\n"
               "for a in kept: a.x = [a]",
}


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_columns_are_stocks(python, tmp_path, name):
    """Every class after the same requests of a whole interpreter: pools, blocks in
    use and available.  A few blocks come and go with the addresses of types, which
    dicts are hashed by.  Which pool gives the next block is another one than on stock: with
    pools of 4 KiB it takes one more or one less."""
    found = []
    for folder, program in (("a", python), ("b", BUILD / "python-stock")):
        (tmp_path / folder).mkdir()
        link = tmp_path / folder / "python"     # paths of one length
        link.symlink_to(program)
        code = f"import sys\n{PROGRAMS[name]}\nsys._debugmallocstats()"
        # On 32 bits the ints of addresses have two sizes: types are where stock has them.
        medium = {} if IS_64_BITS else {"PYMEM_MEDIUM": "malloc"}
        found.append(rows(run_command(
            "setarch", "-R", link, "-S", "-s", "-c", code,
            environment=clean_environment(PYTHONHASHSEED="0", **medium)).stderr))
    ours, stock = found
    assert ours.keys() == stock.keys() and len(ours) >= 25
    for size, (pools, used, available) in ours.items():
        assert abs(used - stock[size][1]) <= 8, size
        if used == stock[size][1]:
            assert abs(pools - stock[size][0]) <= (not IS_64_BITS), size
            assert pools != stock[size][0] or available == stock[size][2], size
    assert sum(ours[size] == stock[size] for size in ours) >= 25


def test_lines_add_up(child, tmp_path):
    text, _ = stats(child, tmp_path, """
blocks = [api.malloc(2, i % 512 + 1) for i in range(30000)]
for p in blocks[::3]:
    api.free(2, p)
api.malloc_stats(path)
""")
    def number(label):
        found = re.search(rf"{label}.*= *({NUMBER})$", text, re.M)
        assert found, label
        return int(found.group(1).replace(",", ""))
    parts = sum(map(number, ["# bytes in allocated", "# bytes in available",
                             "unused pools", "lost to pool headers",
                             "lost to quantization", "lost to arena"]))
    assert parts == number(r"^Total")
    assert parts == number(rf"arenas \* {ARENA_SIZE} bytes/arena")


def test_pythonmallocstats(python):
    result = run_command("env", "PYTHONMALLOCSTATS=1", python, "-c", "pass")
    assert result.stderr.count("Small block threshold") >= 2
    assert result.stderr.startswith(f"Small block threshold = 512, in {SIZE_CLASSES} size")
    result = run_command("env", "PYTHONMALLOCSTATS=", python, "-c", "pass")
    assert result.stderr == ""
