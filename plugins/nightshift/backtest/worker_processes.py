"""Worker processes of one thread each, which never outlive the process that started them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager


@contextmanager
def worker_processes(n_processes: int) -> Iterator[ProcessPoolExecutor]:
    """Give processes of one thread each, which end with this process, however it ends."""
    import multiprocessing

    # Spawned, not forked: a fork would copy the threads' locks of LightGBM and Arrow.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_processes, context, _begin_worker) as pool:
        try:
            yield pool
        finally:
            # When the block fails, jobs that have not begun are dropped.
            pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    """Use one thread, and end with the parent process, however it ends."""
    import threading
    from multiprocessing import connection, parent_process

    # There are as many processes as processors.
    os.environ["OMP_NUM_THREADS"] = "1"
    parent = parent_process()

    def end_with_parent() -> None:
        if parent is not None:
            connection.wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
