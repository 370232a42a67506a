"""A process that has everything imported, and forks a child for each run of a program: so a start costs milliseconds.

    python zygote.py        one JSON object per line on stdin: {"program": name, ...}; see programs.py

What a child says (`programs.say`) is a line on stdout, and so is its end: `exit STATUS`, as waitpid gives it. A line is written
by one system call, so a child that is killed has said it, or has not.
"""

import json
import os
import sys
import traceback

import programs

for line in sys.stdin:
    wishes = json.loads(line)
    start, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(start, 1)  # Until its number has been said.
        try:
            programs.PROGRAMS[wishes.pop("program")](**wishes)
        except BaseException:  # A child has nobody above it.
            programs.say("failed", " | ".join(traceback.format_exc().splitlines()[-12:]))
            os._exit(1)
        os._exit(0)
    programs.say("forked", child)
    os.write(go, b"!")
    os.close(start)
    os.close(go)
    programs.say("exit", os.waitpid(child, 0)[1])
