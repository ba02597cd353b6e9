"""Each promise in a child; what became of it."""

from concurrent.futures import ThreadPoolExecutor

from pymem.conformance.subjects import CannotTest

KEPT, BROKEN, MISSING, NOT_YET, NOT_ASKED = (
    "kept", "BROKEN", "not provided", "not promised", "not asked")


class Result:
    """Of one promise: what became of it, why, and in which domains."""

    def __init__(self, promise, outcome, detail="", domains=()):
        self.promise, self.outcome = promise, outcome
        self.detail, self.domains = detail, list(domains)


def version_text(version):
    return ".".join(map(str, version))


def ask(subject, promise, domain, seconds):
    """(outcome, detail) of one child."""
    ended = subject.run({"promise": promise.name, "domain": domain}, promise.environment,
                        seconds)
    if ended.answer is None:
        return BROKEN, ended.reason()
    result, detail = ended.answer["result"], ended.answer.get("detail", "")
    if result == "cannot":
        raise CannotTest(f"{subject.title}: {detail}")
    if result == "not provided":
        return MISSING, f"there is no {detail}"
    return (KEPT, "") if result == "kept" else (BROKEN, detail)


def run_promise(subject, promise, seconds):
    version = tuple(subject.facts["version"])
    if subject.is_library and promise.interpreter:
        return Result(promise, NOT_ASKED, "it is for an interpreter")
    if not subject.is_library and version < promise.since:
        return Result(promise, NOT_YET, f"since {version_text(promise.since)}")
    domains = [None] if not promise.domains else [
        domain for domain in promise.domains if domain in subject.facts["domains"]]
    if not domains:
        return Result(promise, NOT_ASKED, "it has no such domain")
    found = [(*ask(subject, promise, domain, seconds), domain) for domain in domains]
    for outcome in (BROKEN, KEPT, MISSING):
        same = [(detail, domain) for was, detail, domain in found if was == outcome]
        if same:
            names = [subject.domain_names[domain] for _, domain in same if domain is not None]
            return Result(promise, outcome, same[0][0], names)
    raise AssertionError(found)


def run(subject, promises, seconds, jobs, each=lambda result: None):
    """Results, in the order of the promises; each() hears of one when it is there."""
    results = []
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(run_promise, subject, promise, seconds)
                   for promise in promises]
        try:
            for future in futures:
                results.append(future.result())
                each(results[-1])
        except BaseException:       # Control-C: what did not begin is not begun
            for future in futures:
                future.cancel()
            raise
    return results
