#!/usr/bin/env python3
"""The least that environments of Python functions could cost: forks of an interpreter that has loaded what the zygote has,
without a sandbox, limits or a platform, and forked as the zygote forks.

    forks.py COUNT bare|guest

Forks so many processes as fast as it can. A bare one answers by a byte at once; a guest first does what every guest does from
its order to its first answer. Then each sleeps as the burst's handler does. Prints the processes/s from the first fork to the
last byte.
"""
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "runtimes", "python"))
import dunlin_zygote  # noqa: E402,F401  pylint: disable=wrong-import-position
import gc  # noqa: E402  pylint: disable=wrong-import-position


def main():
    count, guest = int(sys.argv[1]), sys.argv[2] == "guest"
    dunlin_zygote.set_up()
    gc.collect()
    gc.freeze()
    gc.disable()
    read, write = os.pipe()
    begin = time.perf_counter()
    for _ in range(count):
        if dunlin_zygote.copy_process() == 0:
            if guest:
                dunlin_zygote.rehearse(1)
            os.write(write, b"u")
            time.sleep(0.3)
            os._exit(0)
    up = 0
    while up < count:
        up += len(os.read(read, count))
    print(count / (time.perf_counter() - begin))
    for _ in range(count):
        os.wait()


if __name__ == "__main__":
    main()
