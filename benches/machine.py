"""What the kernel says of processes and of this machine: CPU time, page faults, memory, flush time.

Not here: what is measured and how it is reported (run.py). Reads /proc only; Linux only.
"""
import contextlib
import os
import platform
import socket
import statistics
import time

TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")


def tree(root):
    """The process and everything below it."""
    children = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as stat:
                parent = int(stat.read().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(name))
    found, at = [root], 0
    while at < len(found):
        found += children.get(found[at], [])
        at += 1
    return found


class Spent:
    """CPU and faults of a process tree, as a difference between two moments.

    A process that ends in between is lost from it, so take it over warm calls only.
    """

    def __init__(self, root):
        self.root = root
        self.before = self._now()

    def _now(self):
        seen = {}
        for pid in tree(self.root):
            try:
                with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
                    fields = stat.read().rpartition(")")[2].split()
            except OSError:
                continue
            seen[pid] = (int(fields[11]) + int(fields[12]), int(fields[7]), int(fields[9]))
        return seen

    def since(self):
        """(CPU µs, minor faults, major faults) since the start; processes born in between count from zero."""
        now = self._now()
        sums = [0, 0, 0]
        for pid, values in now.items():
            before = self.before.get(pid, (0, 0, 0))
            sums = [total + value - old for total, value, old in zip(sums, values, before)]
        return sums[0] * TICK_US, sums[1], sums[2]


def cpu_ns(root):
    """{thread: CPU ns that it has used}, of a tree."""
    used = {}
    for pid in tree(root):
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/schedstat", encoding="ascii") as schedstat:
                    used[int(thread)] = int(schedstat.read().split()[0])
        except OSError:
            continue
    return used


def cpu_ms(root, before):
    """CPU ms that a tree has used since `before`, a result of `cpu_ns`; threads that ended are not in it."""
    return sum(ns - before.get(thread, 0) for thread, ns in cpu_ns(root).items()) / 1e6


def pss_kib(root):
    """(PSS in KiB, processes) of a tree."""
    sizes = [pss_of(pid) for pid in tree(root)]
    return sum(sizes), sum(size > 0 for size in sizes)


def pss_of(pid):
    """PSS of one process in KiB; 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as rollup:
            return sum(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
    except OSError:
        return 0


def program(pid):
    """The file name of what a process runs; empty if it has ended."""
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return ""


def available_kib():
    """MemAvailable."""
    with open("/proc/meminfo", encoding="utf-8") as meminfo:
        return next(int(line.split()[1]) for line in meminfo if line.startswith("MemAvailable:"))


def free_port():
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def flush_us(folder, rounds=60):
    """Median µs of a 4 KiB append with fdatasync: what one durable write costs at least."""
    with flushes(folder) as flush:
        return statistics.median(flush() for _ in range(rounds))


@contextlib.contextmanager
def flushes(folder):
    """A function that appends 4 KiB with fdatasync and tells how many µs that took."""
    path = os.path.join(folder, "flush-probe")
    with open(path, "wb", buffering=0) as file:
        def flush():
            begin = time.perf_counter()
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())
            return (time.perf_counter() - begin) * 1e6
        yield flush
    os.unlink(path)


def description():
    """The machine in a line, without its name."""
    model = "?"
    with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
        for line in cpuinfo:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    with open("/proc/meminfo", encoding="utf-8") as meminfo:
        memory_gib = int(meminfo.readline().split()[1]) / 1024 / 1024
    release = ".".join(platform.release().split("-")[0].split(".")[:2])
    return f"{os.cpu_count()} CPUs ({model}), {memory_gib:.0f} GiB, Linux {release}, load {os.getloadavg()[0]:.1f}"
