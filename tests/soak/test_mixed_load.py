"""Mixed load with environments that are killed at random: no call is lost or counted twice, and nothing piles up.

`DUNLIN_SOAK_SECONDS` says for how long. Callers use functions of many kinds, send events, publish and delete versions,
deploy and remove functions, while processes in the server's sandboxes are killed at random moments. Every call must be
answered, and rightly, unless a kill explains the error that Lambda would give. What the server holds of its machine is
sampled all the time: the last quarter must not be above the second, and in the end all must be as it was before.

`DUNLIN_SEED` repeats what is done in which order, as far as timing does.
"""

import collections
import concurrent.futures
import os
import random
import time

from chaos.servers import Server, mounts, runtimes, wait_until
from soak.callers import Load
from soak.functions import LARGEST
from soak.killer import Killer, unexplained
from soak.witness import KEPT, SLACK, WITH_SANDBOXES, Samples, Witness, settled

SECONDS = float(os.environ.get("DUNLIN_SOAK_SECONDS", "25"))
SEED = int(os.environ.get("DUNLIN_SEED", random.randrange(1 << 32)))
CALLERS = int(os.environ.get("DUNLIN_SOAK_CALLERS", "3"))
#: An event whose run was killed waits a minute for the next, and then two.
IS_LONG = SECONDS >= 300
#: Seconds between two kills.
PAUSES = (0.3, 2.5)
#: Guests that may wait for calls in the end beyond those that did in the beginning: bursts are remembered for minutes.
WAITING_MOST = 32
#: Zygotes with the packages of functions: they stay for ten minutes after they were last used.
ZYGOTES_MOST = 16


def deployed(server, families, chance):
    load = Load(server, families, chance, CALLERS, pause=0.06)
    load.create()
    return load


def no_environments(server):
    return not server.admin("ps")["environments"]


def remove_all(server, load):
    """Deletes the functions; their environments must go without another call."""
    load.remove()
    wait_until(lambda: f"environments of deleted functions end: {server.admin('ps')}", lambda: no_environments(server), 20)


def warm_up(server, families, chance):
    """Every kind, and the largest payloads at once, so that all is there that stays: zygotes, pools, caches, folders, and
    what the allocator keeps. Answers the request ids."""
    load = deployed(server, families, chance)
    for kind in load.kinds:
        load.call(kind)
    large = [kind for kind in load.kinds if kind.name.startswith("large")]
    with concurrent.futures.ThreadPoolExecutor(CALLERS) as callers:
        jobs = [callers.submit(load.call, kind, {"text": "y" * LARGEST}) for kind in large * CALLERS]
    assert all(job.result() is None for job in jobs)
    for step in (load.send_event, load.publish, load.deploy_and_remove):
        step()
    remove_all(server, load)
    assert load.errors == [] and not [call for call in load.calls if call.wrong or call.killed], load.calls
    return {call.request for call in load.calls}


def wait_for_packages(witness, start):
    """Unpacked packages of the deleted functions must go, but for those of zygotes that are still there."""
    most = start["packages"] + SLACK["packages"] + ZYGOTES_MOST
    left = lambda: witness.sample()["packages"]
    wait_until(lambda: f"at most {most} packages are left, not {left()}", lambda: left() <= most, 240)


def records_of(server, name):
    return server.admin(f"usage?function={name}&limit=10000000")["records"]


def check_calls(load, killer):
    assert load.errors == [], load.errors[:10]
    unanswered = [call for call in load.calls if call.ended is None]
    assert not unanswered, f"{len(unanswered)} calls were never answered"
    wrong = [call for call in load.calls if call.wrong]
    assert not wrong, f"{len(wrong)} wrong answers: {wrong[:10]}"
    alone = unexplained([call for call in load.calls if call.killed], killer.kills)
    assert not alone, f"{len(alone)} calls failed although nothing of theirs was killed: {alone[:10]}"


def check_ledger(server, load, before):
    """One record for each call, none for others; the ending is what the caller saw."""
    calls = collections.defaultdict(list)
    for call in load.calls:
        calls[call.function].append(call)
    for name, of_function in calls.items():
        requests = [call.request for call in of_function]
        assert len(set(requests)) == len(requests), "two calls had one request id"
        records = [record for record in records_of(server, name) if record["requestId"] not in before]
        counted = collections.Counter(record["requestId"] for record in records)
        doubled = [request for request, count in counted.items() if count > 1]
        assert not doubled, f"{name}: recorded more than once: {doubled[:10]}"
        lost = set(requests) - set(counted)
        assert not lost, f"{name}: {len(lost)} of {len(requests)} calls have no record: {sorted(lost)[:5]}"
        foreign = set(counted) - set(requests)
        assert not foreign, f"{name}: records that no caller knows: {sorted(foreign)[:5]}"
        ends = {record["requestId"]: record["ending"] for record in records}
        crashed = [call for call in of_function if call.killed and ends[call.request] != "Crash"]
        assert not crashed, f"{name}: killed, and recorded as {[ends[call.request] for call in crashed]}"


def check_events(server, load):
    """Every accepted event has succeeded, and none ran again after that."""
    ends = collections.defaultdict(list)

    def all_ran():
        ends.clear()
        for record in sorted(records_of(server, "records"), key=lambda record: record["startedAtMs"]):
            ends[record["requestId"]].append(record["ending"])
        return all("Success" in ends[request] for request in load.events)

    wait_until(lambda: f"events run: {[e for e in load.events if 'Success' not in ends[e]][:5]} have not", all_ran, 400)
    again = {request: ends[request] for request in load.events if ends[request].index("Success") + 1 != len(ends[request])}
    assert not again, f"events ran again after they had succeeded: {again}"


def check_flat(samples):
    # In a short run there are more and more environments, packages that nobody needs stay for some minutes, and the
    # largest payloads may come late.
    late = (*WITH_SANDBOXES, "packages", "server MB", "server anonymous MB")
    grown = samples.not_flat(but=() if IS_LONG else late)
    assert not grown, f"these grow (second quarter, last quarter): {grown}"


def check_rest(load, start, rest):
    """All as it was, but for guests that wait for the next call."""
    more = max(0, rest["sandboxes"] - start["sandboxes"])
    assert more <= WAITING_MOST, f"{more} more sandboxes than before"
    for key, value in rest.items():
        # An allocator keeps some of what the largest payloads took that came at once.
        bound = start[key] + SLACK[key] * (4 if "MB" in key else 1)
        if key == "packages":
            bound += ZYGOTES_MOST if IS_LONG else load.deployments
        if key in WITH_SANDBOXES:
            bound = start[key] + 10 + more * WITH_SANDBOXES[key] + KEPT.get(key, 0)
        assert value <= bound, f"{key}: {start[key]} before, {value} after ({more} more guests wait)"
    assert rest["groups"] in (0, rest["sandboxes"]), "groups of sandboxes that are gone"


def report(load, killer, samples, start, rest):
    kinds = collections.Counter(call.function.split("-")[0] for call in load.calls)
    print(f"\nmixed load: {len(load.calls)} calls and {len(load.events)} events in {SECONDS:g} s by {CALLERS} callers, "
          f"{load.deployments} deployments, seed {SEED}: {dict(kinds)}")
    print(f"killed: {len(killer.kills)} times, {sum(len(kill.packages) for kill in killer.kills)} sandboxes; "
          f"{sum(call.killed for call in load.calls)} calls failed by that, no other; none lost, none recorded twice")
    for key, (earlier, later) in samples.medians().items():
        print(f"median {key}: second quarter {earlier:.1f}, last quarter {later:.1f}; at rest {start[key]:.1f} before, "
              f"{rest[key]:.1f} after")


def test_mixed_load_with_kills():
    chance = random.Random(SEED)
    mounted = mounts()
    with Server() as server:
        server.start()
        witness = Witness(server)
        families = {family: name for family, name in runtimes(server).items()}
        known = warm_up(server, families, chance)
        start = settled(witness)
        load = deployed(server, families, chance)
        spared = () if IS_LONG else load.packages["records"]
        killer = Killer(witness, random.Random(chance.random()), PAUSES, spared)
        samples = Samples(witness, period=max(1.0, SECONDS / 360), deployments=lambda: load.deployments)
        for thread in (load, samples, killer):
            thread.start()
        time.sleep(SECONDS)
        killer.end()
        samples.end()
        load.end()
        check_calls(load, killer)
        check_events(server, load)
        check_ledger(server, load, known)
        remove_all(server, load)
        if IS_LONG:
            wait_for_packages(witness, start)
        rest = settled(witness)
        report(load, killer, samples, start, rest)
        check_flat(samples)
        check_rest(load, start, rest)
        family = server.family()
        assert server.stop() == 0
        server.assert_nothing_left(family)
    assert mounts() == mounted
