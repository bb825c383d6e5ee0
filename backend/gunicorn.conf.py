"""How gunicorn serves the app: a few processes, a few threads each.

``preload_app`` stays off: each worker builds its app, its database connections and its inference
sessions after the fork, because neither survives one.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

bind = os.environ.get("ATMR_BIND", "127.0.0.1:8000")
workers = int(os.environ.get("ATMR_WORKERS", "2"))
threads = int(os.environ.get("ATMR_THREADS", "4"))
worker_class = "gthread"
preload_app = False
chdir = str(Path(__file__).resolve().parent)

timeout = 30  # a worker that answers nothing for so long is replaced
graceful_timeout = 20
keepalive = 5
limit_request_line = 4094
limit_request_fields = 50
limit_request_field_size = 8190
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - memory, not disk
accesslog = None  # the app writes its own line, without the query
loglevel = "warning"

# Before prometheus_client is imported: it chooses its kind of storage at import.
_made_by_us = "PROMETHEUS_MULTIPROC_DIR" not in os.environ
if _made_by_us:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="atmr-metrics-")
# One thread for each numerical library: the processes share the cores already.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")


def child_exit(server: Any, worker: Any) -> None:  # noqa: ARG001 - gunicorn's signature
    """A worker has ended: its gauges no longer count, its counters stay."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def on_exit(server: Any) -> None:  # noqa: ARG001 - gunicorn's signature
    """The last one clears the metrics' folder away, if we made it."""
    if _made_by_us:
        shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)
