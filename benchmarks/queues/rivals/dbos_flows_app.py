"""DBOS: ``inline N`` and ``children N`` run workflows of three steps or three child workflows, ``one N`` single ones.

Workflows are started by 64 threads, which was faster than a queue of DBOS and than async workflows on one event loop.
"""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from dbos import DBOS, DBOSConfig

INPUT = {"text": "x" * 480}
CALLERS = 64

config: DBOSConfig = {
    "name": "bench",
    "system_database_url": os.environ["DATABASE_URL"],
    "application_version": "bench",
    "run_admin_server": False,
    "log_level": "ERROR",
    "sys_db_pool_size": 20,
    "max_executor_threads": 2 * CALLERS,
}
DBOS(config=config)


@DBOS.step()
def value(number):
    return number


@DBOS.workflow(name="inline")
def inline():
    return sum(value(number) for number in range(3))


@DBOS.workflow(name="noop")
def noop(_input):
    return {"content": "y" * 250}


@DBOS.workflow(name="children")
def children():
    for _ in range(3):
        DBOS.start_workflow(noop, INPUT).get_result()
    return 3


def many(workflow, count):
    with ThreadPoolExecutor(CALLERS) as callers:
        began = time.time()
        for _ in callers.map(lambda _: workflow(), range(count)):
            pass
    print(time.time() - began, flush=True)


def one(count):
    samples = []
    for _ in range(count):
        began = time.perf_counter()
        inline()
        samples.append(time.perf_counter() - began)
    print(sorted(samples[count // 6 :])[count * 5 // 12], flush=True)


if __name__ == "__main__":
    DBOS.launch()
    inline()  # warm: connections, prepared statements
    if sys.argv[1] == "one":
        one(int(sys.argv[2]))
    else:
        many({"inline": inline, "children": children}[sys.argv[1]], int(sys.argv[2]))
    sys.stdout.flush()
    os._exit(0)
