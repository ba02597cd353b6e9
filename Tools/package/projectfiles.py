"""What Makefile.am and configure.ac say, for whoever builds without them.

Lists of sources, the version and the choices of configure stand there and nowhere else.
"""

import re
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent


def read(name):
    return (TOP / name).read_text(encoding="utf-8")


def version():
    return re.search(r"^AC_INIT\(\[pymem\], \[(.*?)\]\)", read("configure.ac"), re.M)[1]


def make_variables():
    """{name: value}; a conditional part counts as if its condition held."""
    variables = {}
    for line in re.sub(r"\\\n", " ", read("Makefile.am")).splitlines():
        match = re.match(r"(\w+) *(\+?)= *(.*)", line)
        if match:
            name, more, value = match.groups()
            old = variables.get(name, "")
            variables[name] = old + " " + value if more else value
    return variables


def make_list(name, variables=None):
    """The words of a variable of Makefile.am, with those that it refers to."""
    variables = make_variables() if variables is None else variables
    words = []
    for word in variables[name].split():
        reference = re.fullmatch(r"\$\((\w+)\)", word)
        words += make_list(reference[1], variables) if reference else [word]
    return words


def compiler_flags():
    """PYMEM_CFLAGS without warnings, which are for those who work on the sources."""
    value = re.search(r'^PYMEM_CFLAGS="(-std.*?)"', read("configure.ac"), re.M)[1]
    return value.split()


def configured(pointer_size):
    """The text of pyconfig.h as configure makes it without options."""
    text = read("configure.ac")
    choices = dict(re.findall(
        r"AC_ARG_(?:WITH|ENABLE)\(\[.*?\],.*?\[\], \[(\w+)=(\w+)\]\)", text, re.S))
    choices["with_raw_mimalloc"] = "no"
    values = {f"DEFINE_{macro}": f"{'define' if choices[variable] == 'yes' else 'undef'} "
              f"{macro}{' 1' if choices[variable] == 'yes' else ''}"
              for variable, macro in re.findall(
                  r"^PYMEM_FLAG\(\[.*?\], \[(\w+)\], \[(\w+)\]\)", text, re.M)}
    large, small = re.search(r"\[(arena_bits=\d+ pool_bits=\d+)\], "
                             r"\[(arena_bits=\d+ pool_bits=\d+)\]", text).groups()
    values.update(word.split("=") for word in (large if pointer_size >= 8 else small).split())
    return re.sub(r"@(\w+)@", lambda match: values[match[1]],
                  read("Include/pyconfig.h.in"))


def all_files():
    """The files of a source distribution: all that the two name."""
    words = set(re.split(r"[\s,:()\[\]]+", read("Makefile.am") + read("configure.ac")))
    words |= {word + ".in" for word in words if word != "Makefile"}
    words |= {"Makefile.am", "configure.ac"}
    return sorted(word for word in words
                  if word and not word.startswith(("/", ".", "build/"))
                  and (TOP / word).is_file())
