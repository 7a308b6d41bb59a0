"""A file that a command writes: complete, or not at all."""

from __future__ import annotations

import gzip
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast


class OutputFileError(Exception):
    """The file can't be written."""


@contextmanager
def open_new_file(name: str, *, overwrite: bool = False) -> Iterator[BinaryIO]:
    """Open a file for writing. It gets its name at the end of the block, or is removed if the block raises.

    Only its owner can read it. It is compressed if its name ends in ``.gz``.

    Args:
        name: Path of the file. A symbolic link is followed.
        overwrite: Whether to replace a file of this name.

    Raises:
        OutputFileError: the file exists, or its directory can't be written.
    """
    path = Path(os.path.realpath(name))
    _check_absent(path, name, overwrite=overwrite)
    try:
        # In the same directory: a file can't be renamed into another file system. Its mode is 0600.
        number, part_name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise OutputFileError(
            f"{name} can't be written: {error.strerror}. Name a file in a directory that exists."
        ) from error
    try:
        with os.fdopen(number, "wb") as file:
            if path.suffix == ".gz":
                with gzip.GzipFile(filename="", mode="wb", fileobj=file) as compressed:
                    yield cast(BinaryIO, compressed)
            else:
                yield cast(BinaryIO, file)
            file.flush()
            os.fsync(file.fileno())
        _check_absent(path, name, overwrite=overwrite)
        os.replace(part_name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(part_name)
        raise


def _check_absent(path: Path, name: str, *, overwrite: bool) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputFileError(f"{name} can't be written: {error.strerror}.") from error
    if not stat.S_ISREG(mode):
        raise OutputFileError(f"{name} is not a regular file. Name a file, or write to stdout without --output.")
    if not overwrite:
        raise OutputFileError(f"{name} exists. Name another file, or replace it with --force.")
