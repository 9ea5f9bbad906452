"""Read a Parquet file in a child process first: Arrow ends its process on some damaged files.

One byte of a column's statistics is enough (`parquet::ParquetException` that nobody catches,
SIGABRT, Arrow 25). A worker that dies of a file is restarted and dies again. The child has no
connection, no credential and 4 GiB at most; it takes about half a second.
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
_CRASHES = {-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL}
"""Exit codes that the file causes. SIGKILL and SIGTERM come from the machine, or from a person."""


def read_in_sandbox(
    source: bytes | Path,
    limits: DropLimits,
) -> None:
    """Read a file in a child process; only a crash counts, because errors appear again later.

    Raises:
        BrokenPageError: The child crashed.
    """
    path = "-" if isinstance(source, bytes) else str(source)
    content = source if isinstance(source, bytes) else b""
    command = [sys.executable, "-P", "-m", __name__]
    command += [path, limits.model_dump_json()]
    # Nothing is inherited: the file must not reach a credential through its reader.
    environment = {
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "OMP_NUM_THREADS": "1",
    }
    child = subprocess.run(  # noqa: S603  (our own interpreter and module)
        command,
        input=content,
        capture_output=True,
        env=environment,
        check=False,
    )
    if child.returncode in _CRASHES:
        name = signal.Signals(-child.returncode).name
        raise BrokenPageError(f"its reader died of it ({name})")


def main(path: str, limits: DropLimits) -> None:
    """Read every column by itself, so that a refused column does not hide the next ones."""
    from nightshift.quality.files.parquet_blocks import open_parquet, parquet_blocks

    memory = (_MEMORY_BYTES, _MEMORY_BYTES)
    resource.setrlimit(resource.RLIMIT_AS, memory)
    # A crash is expected here: no core file of four gigabytes.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source: bytes | Path = Path(path)
    if path == "-":
        source = sys.stdin.buffer.read()
    # Errors are raised again where the file is read; only a crash is news.
    with suppress(Exception):
        names = open_parquet(source, limits).schema_arrow.names
        for name in dict.fromkeys(names):
            with suppress(Exception):
                for _ in parquet_blocks(
                    source,
                    [name],
                    limits,
                ):
                    pass


if __name__ == "__main__":
    main(
        sys.argv[1],
        DropLimits.model_validate_json(sys.argv[2]),
    )
