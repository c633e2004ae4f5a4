"""DBOS: ``fill N`` enqueues workflows, ``work`` runs them."""

import os
import sys
import threading
import time

from dbos import DBOS, DBOSClient, DBOSConfig

INPUT = {"text": "x" * 480}
URL = os.environ["DATABASE_URL"]
APP_VERSION = "bench"

config: DBOSConfig = {
    "name": "bench",
    "system_database_url": URL,
    "application_version": APP_VERSION,
    "run_admin_server": False,
    "log_level": "ERROR",
}


def start():
    DBOS(config=config)

    @DBOS.workflow(name="noop")
    def noop(_input):
        return {"content": "y" * 250}

    DBOS.launch()
    print("begin", time.time(), flush=True)
    DBOS.register_queue("bench", polling_interval_sec=0.05)


def fill(jobs):
    DBOS(config=config)
    DBOS.launch()  # makes the schema
    DBOS.destroy()
    client = DBOSClient(system_database_url=URL)
    options = {"queue_name": "bench", "workflow_name": "noop", "app_version": APP_VERSION}
    for _ in range(jobs):
        client.enqueue(options, INPUT)


def work():
    start()
    threading.Event().wait()


if __name__ == "__main__":
    fill(int(sys.argv[2])) if sys.argv[1] == "fill" else work()
