"""Results as a table, as JSON and as JUnit's XML."""

import json
import textwrap
from collections import Counter
from xml.etree import ElementTree

from pymem.conformance.runner import BROKEN, KEPT, version_text

OUTCOMES = {"kept": "kept", "BROKEN": "broken", "not provided": "not-provided",
            "not promised": "not-promised", "not asked": "not-asked"}


def words(name):
    group, text = name.split(".")
    return f"{group}: {text.replace('_', ' ')}"


def row(result):
    note = ""
    if result.outcome == BROKEN and result.domains:
        note = ", ".join(result.domains)
    elif result.outcome != KEPT:
        note = result.detail
    return f"{words(result.promise.name):55} {result.outcome:13} {note}".rstrip()


def paragraph(label, text):
    return textwrap.fill(text, 90, initial_indent=f"  {label:7}",
                         subsequent_indent=" " * 9, break_long_words=False,
                         break_on_hyphens=False)


def since_text(promise):
    if promise.since <= (3, 8):
        return "all versions that can be tested (3.8 and later)"
    return version_text(promise.since)


def explanation(result):
    promise = result.promise
    return "\n".join([words(promise.name), paragraph("seen", result.detail),
                      paragraph("rule", promise.rule), paragraph("since", since_text(promise)),
                      paragraph("where", promise.where)])


def summary(results):
    counts = Counter(result.outcome for result in results)
    return ", ".join(f"{counts[outcome]} {outcome.lower()}" for outcome in OUTCOMES
                     if counts[outcome])


def as_data(result):
    promise = result.promise
    return {"promise": promise.name, "result": OUTCOMES[result.outcome],
            "detail": result.detail, "domains": result.domains, "rule": promise.rule,
            "since": version_text(promise.since), "where": promise.where}


def write_json(path, subject, results):
    data = {"subject": subject.title, "facts": subject.facts,
            "results": [as_data(result) for result in results]}
    with open(path, "w", encoding="utf-8") as file:
        json.dump(data, file, indent=1)
        file.write("\n")


def write_junit(path, subject, results):
    count = Counter(result.outcome for result in results)
    suite = ElementTree.Element("testsuite", {
        "name": f"pymem conformance: {subject.title}", "tests": str(len(results)),
        "failures": str(count[BROKEN]), "errors": "0",
        "skipped": str(len(results) - count[BROKEN] - count[KEPT])})
    for result in results:
        group, name = result.promise.name.split(".")
        case = ElementTree.SubElement(suite, "testcase", {
            "classname": f"conformance.{group}", "name": name})
        if result.outcome == BROKEN:
            failure = ElementTree.SubElement(case, "failure", {"message": result.detail})
            failure.text = explanation(result)
        elif result.outcome != KEPT:
            ElementTree.SubElement(case, "skipped", {
                "message": f"{result.outcome}: {result.detail}"})
    ElementTree.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)
