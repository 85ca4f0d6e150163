"""Room on a disk, taken before it is needed."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

UNSUPPORTED = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # what a file system answers that cannot reserve


def allocate(file: Path, starts: list[int], size: int) -> None:
    """Blocks for ``size`` bytes from each start; where the system cannot reserve them, they must at least be free.

    Raises:
        OSError: the disk is full, or the file cannot be opened.
    """
    reserved = hasattr(os, "posix_fallocate")  # Linux has it; macOS and Windows do not
    handle = os.open(file, os.O_RDWR)
    try:
        for start in starts if reserved else ():
            os.posix_fallocate(handle, start, size)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        reserved = False
    finally:
        os.close(handle)
    if not reserved and shutil.disk_usage(file.parent).free < size * len(starts):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
