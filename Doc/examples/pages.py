"""A program that needs much memory for a while: it tells what stays resident afterwards."""

import re


def resident():
    status = open("/proc/self/status").read()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def make_page(number):
    kept.append(bytes(600))
    return [f"line {i} of page {number}" * 40 for i in range(400)]


kept = []
before = resident()
pages = [make_page(number) for number in range(200)]
most = resident()
del pages
print(f"at the start {before:.0f} MiB, with 200 pages {most:.0f} MiB, "
      f"without them {resident():.0f} MiB")
