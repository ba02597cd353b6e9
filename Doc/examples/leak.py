"""A program with a leak: for three seconds it remembers more and more."""

import time

kept = []


def remember(number):
    kept.append(bytes(4000))
    return number


end = time.monotonic() + 3
while time.monotonic() < end:
    remember(len(kept))
    time.sleep(0.001)
