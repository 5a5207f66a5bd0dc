"""Ends processes in the sandboxes of one server at random, and knows which calls that explains."""

import contextlib
import os
import re
import signal
import threading
import time

from chaos.servers import descendants, process_stat
from soak.witness import is_first, read


#: How long a killed process may take to be gone on a busy machine.
DYING_SECONDS = 1.0


def package_of(pid):
    """The digest of the package that a process sees as its code, if it has one."""
    for line in read(f"/proc/{pid}/mountinfo").splitlines():
        fields = line.split()
        if fields[4].endswith("/var/task") and (found := re.search(r"/([0-9a-f]{64})$", fields[3])):
            return found[1]
    return None


class Kill:
    """One kill: when, and the packages of the sandboxes that ended with it; None: had none yet."""

    def __init__(self, began):
        self.began, self.ended = began, began
        self.packages = []


class Killer(threading.Thread):
    """Kills every now and then until it is told to end. `spared` are packages whose environments live on."""

    def __init__(self, witness, chance, pauses, spared=()):
        super().__init__(daemon=True)
        self.witness, self.chance, self.pauses, self.spared = witness, chance, pauses, set(spared)
        self.kills = []
        self.over = threading.Event()

    def run(self):
        while not self.over.wait(self.chance.uniform(*self.pauses)):
            self.kill_one()

    def end(self):
        self.over.set()
        self.join()

    def kill_one(self):
        guests = self.witness.guests()
        if not guests:
            return
        serving = [guest for guest in guests if package_of(guest[0])]
        # Mostly one that has a function; now and then one that waits for one, or a zygote.
        pid, started = self.chance.choice(serving if serving and self.chance.random() < 0.8 else guests)
        first = pid if is_first(pid) else parent_of(pid)
        dying = [pid] + ([first] if first else []) + [below for below, _ in descendants(first or pid)]
        packages = [package_of(sandbox) for sandbox in set(dying) if is_first(sandbox)]
        if self.spared & set(packages):
            return
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            return
        try:
            stat = process_stat(pid)
            if stat is None or stat[2] != started:
                return
            kill = Kill(time.monotonic())
            kill.packages = packages or [None]
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            kill.ended = time.monotonic()
            self.kills.append(kill)
        finally:
            os.close(handle)


def parent_of(pid):
    """The first process of a guest's sandbox: its parent, unless the guest is a child of another guest."""
    while (stat := process_stat(pid)) is not None:
        if is_first(stat[1]):
            return stat[1]
        pid = stat[1]
    return None


def unexplained(failed, kills):
    """Calls that no kill explains: each sandbox that was killed explains one call, which ran at that moment.

    A call is (began, ended, packages); what is found is the largest matching of calls and sandboxes.
    """
    seats = [(kill, package) for kill in kills for package in kill.packages]

    def fits(call, seat):
        kill, package = seat
        # What is killed may still take a call before it is gone.
        overlaps = call.began <= kill.ended + DYING_SECONDS and kill.began <= call.ended
        return overlaps and (package is None or package in call.packages)

    taken = {}

    def place(call, seen):
        for index, seat in enumerate(seats):
            if index in seen or not fits(call, seat):
                continue
            seen.add(index)
            if index not in taken or place(taken[index], seen):
                taken[index] = call
                return True
        return False

    return [call for call in failed if not place(call, set())]
