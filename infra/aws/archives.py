"""A model as SageMaker wants it: a tar.gz archive whose bytes follow from its files."""

from __future__ import annotations

import gzip
import io
import tarfile


def packed(files: dict[str, bytes]) -> bytes:
    """Pack files reproducibly: the same files give the same bytes on every machine."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, data in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return gzip.compress(archive.getvalue(), mtime=0)
