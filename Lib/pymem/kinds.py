"""What types the objects of a tracer's stacks have, and what refers to them.

    kinds_of(tracer, with_referrers)    {stack: ({type: objects}, {referrer: objects})}

Of objects that the garbage collector knows, and of others that they lead to.  A sampled tracer
knows the stacks of its samples only, which are as many for each type as its bytes are.  The
text of this file is also executed in a process that is attached to: it needs nothing of pymem.
"""

import gc
import sys

MOST = 20                               # objects of a stack whose referrers are looked for
# These run no code of a program's classes.
MODULE, QUALNAME = (type.__dict__[name].__get__ for name in ("__module__", "__qualname__"))


def type_name(obj):
    module, name = MODULE(type(obj)), QUALNAME(type(obj))
    return name if module in ("builtins", "__main__") else f"{module}.{name}"


def names_of_globals():
    """{id of an object: its name in a module}"""
    names = {}
    for name, module in list(sys.modules.items()):
        if type(module) is type(sys):
            names[id(vars(module))] = f"module {name}"
            for key, value in list(vars(module).items()):
                if gc.is_tracked(value) or type(value) in (list, dict, set):
                    names.setdefault(id(value), f"{name}.{key}")
    return names


def referrer_text(obj, names):
    text = type_name(obj)
    if type(obj) in (list, dict, set, tuple, frozenset):
        text += f" of {len(obj):,}"
    return text + (f" ({names[id(obj)]})" if id(obj) in names else "")


def all_objects():
    """Each once.  A dict of numbers, say, is none that the garbage collector knows."""
    known = gc.get_objects()
    yield from known
    seen = set()
    for container in known:
        todo = [container]
        while todo:
            for obj in gc.get_referents(todo.pop()):
                if not gc.is_tracked(obj) and id(obj) not in seen:
                    seen.add(id(obj))
                    todo.append(obj)
                    yield obj


def kinds_of(tracer, with_referrers):
    found, examples = {}, {}
    for obj in all_objects():
        stack = tracer._get_object_traceback(obj)
        if stack is not None:
            types, _ = found.setdefault(stack, ({}, {}))
            types[type_name(obj)] = types.get(type_name(obj), 0) + 1
            if with_referrers and sum(types.values()) <= MOST:
                examples[id(obj)] = stack
    if with_referrers:
        names = names_of_globals()
        for container in all_objects():
            for obj in gc.get_referents(container):
                if id(obj) in examples:
                    referrers = found[examples[id(obj)]][1]
                    text = referrer_text(container, names)
                    referrers[text] = referrers.get(text, 0) + 1
    return found
