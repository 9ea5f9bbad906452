"""Read a Parquet file in a process of its own first: Arrow ends its process on some damaged files.

One byte of a column's statistics is enough (`parquet::ParquetException` that nobody catches,
SIGABRT, Arrow 25). A worker that dies of a file is started again and dies again, so the file is
tried where it may kill. The child has no connection, no credential and 4 GiB at most; it takes
about half a second.
"""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from nightshift.contracts.drop_limits import DropLimits
from nightshift.quality.files.parquet_pages import BrokenPageError

_MEMORY_BYTES = 4 * 1024**3


def read_in_sandbox(source: bytes | Path, limits: DropLimits) -> None:
    """Read a file in a child process; an orderly error there comes again here, where it is judged.

    Raises:
        BrokenPageError: The child died of it.
    """
    path = "-" if isinstance(source, bytes) else str(source)
    command = [sys.executable, "-P", "-m", __name__, path, limits.model_dump_json()]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    content = source if isinstance(source, bytes) else b""
    done = subprocess.run(command, input=content, capture_output=True, env=environment, check=False)  # noqa: S603
    if done.returncode in _DEATHS_OF_A_FILE:
        raise BrokenPageError(f"its reader died of it ({signal.Signals(-done.returncode).name})")


_DEATHS_OF_A_FILE = {
    -signal.SIGABRT,
    -signal.SIGSEGV,
    -signal.SIGBUS,
    -signal.SIGFPE,
    -signal.SIGILL,
}
"""Not SIGKILL or SIGTERM: these come from the machine, or from a person."""


def main(path: str, limits: DropLimits) -> None:
    """Read every column by itself, so that one that is refused leaves the others tried."""
    from nightshift.quality.files.parquet_blocks import open_parquet, parquet_blocks

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source = sys.stdin.buffer.read() if path == "-" else Path(path)
    with suppress(Exception):
        names = open_parquet(source, limits).schema_arrow.names
        for name in dict.fromkeys(names):
            with suppress(Exception):
                for _ in parquet_blocks(source, [name], limits):
                    pass


if __name__ == "__main__":
    main(sys.argv[1], DropLimits.model_validate_json(sys.argv[2]))
