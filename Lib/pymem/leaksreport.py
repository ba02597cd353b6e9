"""What leaks found: for people in a terminal, for machines as JSON, and as a page."""

import json
import os
import re
from pathlib import Path

from pymem import flame, size_text
from pymem.flame import Frame, frame_at, frame_record, frames_of
from pymem.growth import is_library, total
from pymem.page import write_page

WIDTH = 80
ON_PAGE = 400           # stacks that change most
SHOWN = 3               # callers, types and referrers


def rate_text(rate):
    return f"{size_text(rate * 60)}/min"


def shortened(text, room):
    return text if len(text) <= room else "…" + text[-room + 1:]


def place(frame, room=WIDTH, here=None):
    """file:line function, with what is last of a long path, and of a long name where the path
    is cut to the file; a library's file as in it, and one below a folder as there."""
    file, here = frame.file, here or os.getcwd() + os.sep
    file = file[len(here):] if file.startswith(here) else file
    file = re.sub(r"^/.*/(python3[\d.]*|site-packages|dist-packages)/", "", file)
    base, line = os.path.basename(file), f":{frame.line}" if frame.line else ""
    left = room - len(f"{base}{line} ")
    end = f"{line} {shortened(frame.name, max(left, 8))}"
    left = room - len(end)
    path = file if left > len(base) + 1 else base       # a base may be "<frozen ...>"
    return shortened(path, max(left, 8)) + end


def percent(share):
    return "over 99.9 %" if share > 0.999 else f"{100 * share:.1f} %"


def shares(counts):
    """The most frequent names, with what part they are."""
    every = sum(counts.values())
    most = sorted(counts, key=lambda name: (-counts[name], name))[:SHOWN]
    return ", ".join(f"{name} {counts[name] / every:.0%}" for name in most)


def kinds_at(finding, survey, kinds):
    """({type: objects}, {referrer: objects}) of all stacks of a site."""
    merged = {}, {}
    for number in finding.stacks:
        stack = tuple(frame[:2] for frame in survey.keys[number])
        for into, counts in zip(merged, kinds.get(stack, ())):
            for name, count in counts.items():
                into[name] = into.get(name, 0) + count
    return merged


def library_frame(finding, survey):
    """The innermost frame of the stack that grew most, where a library asked."""
    most = max(finding.stacks, key=lambda number: survey.stacks[number][1][-1].nbytes)
    frame = frame_at(*survey.stacks[most][0][-1])
    return frame if is_library(frame.file) and frame != finding.frames[-1] else None


def site_lines(finding, survey, kinds):
    grown, level = finding.growth, finding.levels[-1]
    start = f"+{rate_text(grown.rate)} ±{grown.error / grown.nbytes:.0%}  "
    yield start + place(finding.frames[-1], WIDTH - len(start))
    about = "about " if survey.sample_bytes else ""
    yield f"    holds {size_text(level.nbytes)} in {about}{level.blocks:,.0f} blocks, " \
          f"confidence {percent(grown.confidence)}"
    types, referrers = kinds_at(finding, survey, kinds)
    if types:
        yield shortened(f"    types: {shares(types)}", WIDTH)
    asked = library_frame(finding, survey)
    if asked:
        yield f"    by {place(asked, WIDTH - 7)}"
    callers = finding.frames[-2::-1]
    own = [frame for frame in callers if not is_library(frame.file)]
    for frame in (own or callers)[:SHOWN]:
        yield f"    called by {place(frame, WIDTH - 14)}"
    for name in sorted(referrers, key=lambda name: -referrers[name])[:SHOWN]:
        yield shortened(f"    held by {name}", WIDTH)


def time_text(survey):
    return f"{survey.seconds:.1f} s, {survey.windows} windows"


def lines(options, survey, kinds):
    found = survey.findings
    if not found:
        yield f"Nothing grows ({time_text(survey)}); " \
              f"{size_text(survey.total[-1].nbytes)} traced at the end."
        if survey.sample_bytes:
            yield f"To see growth below {rate_text(survey.least_rate)}, let it run longer or " \
                  "set smaller --samples."
        return
    sites = "one site" if len(found) == 1 else f"{len(found)} sites"
    yield f"Memory grows by {rate_text(survey.rate)} at {sites} ({time_text(survey)})."
    for finding in found[:options.top]:
        yield from site_lines(finding, survey, kinds)
    if len(found) > options.top:
        yield f"{len(found) - options.top} sites more (--top)"


# For machines, and the page.

def level_record(level):
    return [round(level.nbytes), round(level.blocks)]


def record(options, survey, kinds, facts):
    sites = []
    for finding in survey.findings:
        grown = finding.growth
        types, referrers = kinds_at(finding, survey, kinds)
        sites.append({
            **frame_record(finding.frames[-1]),
            "bytes_per_minute": round(60 * grown.rate),
            "error_bytes_per_minute": round(60 * grown.error / grown.seconds),
            "confidence": round(grown.confidence, 6),
            "bytes": round(finding.levels[-1].nbytes),
            "blocks": round(finding.levels[-1].blocks),
            "types": types, "referrers": referrers,
            "stack": [frame_record(frame) for frame in finding.frames],
            "levels": [level_record(level) for level in finding.levels]})
    return {**facts, "seconds": round(survey.seconds, 3), "windows": survey.windows,
            "sample_bytes": survey.sample_bytes,
            "bytes": round(survey.total[-1].nbytes), "blocks": round(survey.total[-1].blocks),
            "peak_bytes": round(max(level.nbytes for level in survey.total)),
            "bytes_per_minute": round(60 * survey.rate),
            "least_bytes_per_minute": round(60 * survey.least_rate),
            "over_limit": is_over(options, survey),
            "times": [round(moment, 3) for moment in survey.times],
            "levels": [level_record(level) for level in survey.total],
            "sites": sites}


def full_record(options, survey, kinds, facts):
    """And what each stack held at the end, for flame."""
    held = flame.of_levels((of_stack, levels[-1]) for of_stack, levels
                           in survey.stacks.values() if levels[-1].blocks)
    return {**record(options, survey, kinds, facts), **flame.record(held)}


def page_data(options, survey, kinds, facts):
    """The record, and stacks with their bytes and blocks at each moment; those that hardly
    change together."""
    def change(number):
        values = [level.nbytes for level in survey.stacks[number][1]]
        return max(values) - min(values)
    numbers = sorted(survey.stacks, key=change, reverse=True)
    frames, stacks = {}, []
    for number in numbers[:ON_PAGE]:
        of_stack, levels = survey.stacks[number]
        stacks.append({"frames": [frames.setdefault(frame, len(frames))
                                  for frame in frames_of(of_stack)],
                       "levels": [level_record(level) for level in levels]})
    rest = total([survey.stacks[number][1] for number in numbers[ON_PAGE:]])
    if rest:
        together = Frame("all stacks that hardly change", "", 0)
        stacks.append({"frames": [frames.setdefault(together, len(frames))],
                       "levels": [level_record(level) for level in rest]})
    return {**record(options, survey, kinds, facts), "stacks": stacks,
            "frames": flame.page_frames(frames)}


def is_over(options, survey):
    return options.limit is not None and survey.rate > options.limit.rate


def write(options, survey, kinds, facts):
    """Whether the limit is passed."""
    if options.output and options.output.endswith(".html"):
        data = page_data(options, survey, kinds, facts)
        write_page("leaks.html", data, options.output, {**data, "moment": "at the end"})
    elif options.output:
        Path(options.output).write_text(
            json.dumps(full_record(options, survey, kinds, facts), indent=1) + "\n",
            encoding="utf-8")
    if options.json:
        print(json.dumps(full_record(options, survey, kinds, facts), indent=1))
    else:
        print("\n".join(lines(options, survey, kinds)))
        if is_over(options, survey):
            print(f"This is over the limit of {options.limit.text}.")
    return is_over(options, survey)
