"""What a server holds of its machine, read from outside: memory, descriptors, groups, mounts, processes, images, files.

Only the server's own process tree is looked at, from its process id down. What goes away while it is read counts as
gone.
"""

import contextlib
import os
import pathlib
import re
import stat
import statistics
import threading
import time

from chaos.servers import control_groups, descendants, process_stat

#: What may be between two quarters of a run, beside a tenth: what varies with the environments of the moment.
SLACK = {
    "server MB": 12, "server anonymous MB": 12, "spawner MB": 4, "keeper MB": 2, "server threads": 8,
    "server descriptors": 60, "spawner descriptors": 60, "keeper descriptors": 12, "server mounts": 0,
    "spawner mounts": 2, "keeper mounts": 1, "groups": 12, "processes": 24, "sandboxes": 12,
    "loop devices": 12, "files": 24, "packages": 24,
}
LOOP_MAJOR = 7
#: What is kept of these for later when sandboxes end: 64 loop devices, each with its file.
KEPT = {"keeper descriptors": 128, "loop devices": 64}

#: What each sandbox may take of these; a zygote's takes most.
WITH_SANDBOXES = {
    "server descriptors": 12, "spawner descriptors": 20, "keeper descriptors": 5, "groups": 1, "processes": 4,
    "sandboxes": 1, "loop devices": 2,
}


def read(path):
    try:
        return pathlib.Path(path).read_text()
    except OSError:
        return ""


def megabytes(rollup, key):
    found = re.search(rf"^{key}:\s+(\d+) kB", rollup, re.M)
    return int(found[1]) / 1024 if found else 0.0


def entries(path):
    try:
        return len(os.listdir(path))
    except OSError:
        return 0


def files_below(*folders):
    """Regular files."""
    return sum(len(names) for folder in folders for _, _, names in os.walk(folder))


class Witness:
    """The processes of one server. Made before the first function, while there are only the platform's own."""

    def __init__(self, server):
        self.server = server
        self.pid = server.process.pid
        own = [pid for pid, _ in descendants(self.pid)]
        self.spawner, self.keeper = own[0], own[1] if len(own) > 1 else None
        self.own = set(own)

    def guests(self):
        """Processes of sandboxes, as (pid, start time)."""
        return [process for process in descendants(self.pid) if process[0] not in self.own]

    def sandboxes(self):
        """First processes of sandboxes that live."""
        return sum(1 for pid, _ in self.guests() if is_first(pid))

    def sample(self):
        """What is held now."""
        seen = {}
        for name, pid in (("server", self.pid), ("spawner", self.spawner), ("keeper", self.keeper)):
            if pid is None:
                continue
            rollup = read(f"/proc/{pid}/smaps_rollup")
            seen[f"{name} MB"] = megabytes(rollup, "Pss")
            seen[f"{name} descriptors"] = entries(f"/proc/{pid}/fd")
            seen[f"{name} mounts"] = read(f"/proc/{pid}/mountinfo").count("\n")
            if name == "server":
                seen["server anonymous MB"] = megabytes(rollup, "Anonymous")
                seen["server threads"] = entries(f"/proc/{pid}/task")
        seen["groups"] = len(set().union(*map(folders_in, control_groups(self.server.spawners))))
        seen["processes"] = len(self.guests())
        seen["sandboxes"] = self.sandboxes()
        seen["loop devices"] = self.loops()
        data = self.server.data
        seen["files"] = files_below(data / "runtime", data / "usage", data / "blobs" / ".tmp")
        seen["packages"] = entries(data / "code")
        return seen

    def loops(self):
        """Loop devices that the keeper holds open."""
        held = set()
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{self.keeper}/fd"):
                with contextlib.suppress(OSError):
                    status = os.stat(f"/proc/{self.keeper}/fd/{name}")
                    if stat.S_ISBLK(status.st_mode) and os.major(status.st_rdev) == LOOP_MAJOR:
                        held.add(status.st_rdev)
        return len(held)


def is_first(pid):
    """Whether a process is the first of its sandbox: number one in the innermost of its process namespaces."""
    found = re.search(r"^NSpid:\s+(.*)$", read(f"/proc/{pid}/status"), re.M)
    return bool(found) and len(found[1].split()) > 1 and found[1].split()[-1] == "1"


def folders_in(folder):
    """The names of sandboxes' groups; one sandbox has the same in each hierarchy."""
    try:
        return {entry.name for entry in os.scandir(folder) if entry.is_dir()}
    except OSError:
        return set()


class Samples(threading.Thread):
    """Samples of a run, one each `period` seconds."""

    def __init__(self, witness, period, deployments):
        """`deployments` tells how many there were until now."""
        super().__init__(daemon=True)
        self.witness, self.period, self.deployments = witness, period, deployments
        self.taken, self.deployed = [], []
        self.over = threading.Event()

    def run(self):
        while not self.over.wait(self.period):
            if process_stat(self.witness.pid) is None:
                return
            self.taken.append(self.witness.sample())
            self.deployed.append(self.deployments())

    def end(self):
        self.over.set()
        self.join()

    def medians(self):
        """Of the second and the last quarter: {what: (earlier, later)}. The first quarter warms up."""
        quarter = len(self.taken) // 4
        assert quarter >= 2, "too few samples"
        earlier, later = self.taken[quarter:2 * quarter], self.taken[-quarter:]
        median = lambda samples, key: statistics.median(sample[key] for sample in samples)
        return {key: (median(earlier, key), median(later, key)) for key in self.taken[0]}

    def pace(self):
        """How many times as many deployments there were in the last quarter as in the second, at least one."""
        quarter = len(self.deployed) // 4
        earlier, later = self.deployed[2 * quarter - 1] - self.deployed[quarter], self.deployed[-1] - self.deployed[-quarter]
        return max(1, later / max(1, earlier))

    def not_flat(self, but=()):
        """What grew by more than its bound, but for these. What comes with sandboxes may be as many more as there are;
        packages stay for minutes after their functions, so there are as many more as are deployed in that time."""
        medians = self.medians()
        medians["packages"] = (medians["packages"][0] * self.pace(), medians["packages"][1])
        more = max(0, medians["sandboxes"][1] - medians["sandboxes"][0])
        bound = lambda key, earlier: earlier * 1.1 + SLACK[key] + more * (WITH_SANDBOXES.get(key, 0) if key != "sandboxes" else 0)
        grown = {key: pair for key, pair in medians.items() if pair[1] > bound(key, pair[0])}
        return {key: pair for key, pair in grown.items() if key not in but}


def settled(witness, seconds=30):
    """A sample once two in a row have the same sandboxes."""
    end = time.monotonic() + seconds
    before = witness.sample()
    while time.monotonic() < end:
        time.sleep(0.5)
        now = witness.sample()
        if now["sandboxes"] == before["sandboxes"] and now["groups"] == before["groups"]:
            return now
        before = now
    return before
