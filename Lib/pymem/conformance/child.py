"""In a child, which any Python since 3.8 runs: one promise, or what the subject is.

    child.py FD REQUEST         both as JSON; the answer is written to FD

The package is loaded from where this file is, without its parent's other modules, and
nothing is imported that sys.path has from the subject's own packages.
"""

import json
import os
import sys
import types


def load_package():
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    package = types.ModuleType("pymem")
    package.__path__ = [folder]
    sys.modules["pymem"] = package
    # Neither statistics.py nor another file here may hide a module of the library.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != here]


def subject_api(request):
    from pymem.conformance import api
    if request.get("library"):
        subject = api.Library(request["library"], request["prefix"])
    else:
        subject = api.Interpreter()
    driver = request.get("driver")
    return api.Driver(subject, driver) if driver else api.Functions(subject)


def facts(api):
    import platform
    version = getattr(sys, "pypy_version_info", sys.version_info)[:3]
    return {"implementation": platform.python_implementation(),
            "version": list(sys.version_info[:2]),
            "release": ".".join(map(str, version)), "domains": api.domains(),
            "free_threaded": api.free_threaded, "debug": api.debug_build,
            "functions": sorted(name for name, found in api.addresses.items() if found)}


def keep(request, api):
    from pymem.conformance import promises
    chosen = next(each for each in promises.all_promises() if each.name == request["promise"])
    if chosen.driver and not request.get("driver"):
        raise promises.NotProvided("C compiler")
    domain = request["domain"]
    chosen.function(*[api] if domain is None else [api, domain])
    return {"result": "kept"}


def answer(request):
    from pymem.conformance.promises import Broken, NotProvided
    try:
        api = subject_api(request)
    except (OSError, ImportError) as error:
        return {"result": "cannot", "detail": str(error)}
    try:
        return keep(request, api) if "promise" in request else facts(api)
    except Broken as broken:
        return {"result": "broken", "detail": str(broken)}
    except NotProvided as missing:
        return {"result": "not provided", "detail": str(missing)}


def main():
    load_package()
    reply = json.dumps(answer(json.loads(sys.argv[2]))).encode()
    os.write(int(sys.argv[1]), reply)
    # The subject's heap may be in pieces: no further free is asked of it.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
