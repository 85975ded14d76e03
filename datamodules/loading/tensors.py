"""Files that ``torch.save`` has written, of plain tensors, numbers and containers."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

from datamodules.loading.files import READ_ERRORS, check_claim, memory_named, one_line


def read_tensors(path: Path) -> Any:
    """The content of such a file, on the CPU; never unpickled, its members' checksums verified.

    torch writes members as they are, so that one larger than the file is refused unread. The format from
    before torch 1.6, which is no zip file, is refused too: its sizes cannot be judged.

    Raises:
        ValueError: one line on a file that is damaged or holds anything else.
    """
    try:
        with memory_named(path, "the file"):
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
                check_claim(path, "the file", sum(m.file_size for m in members))
                if any(
                    m.compress_type != zipfile.ZIP_STORED or m.compress_size != m.file_size for m in members
                ):
                    raise ValueError("compressed members, which torch does not write")
                broken = archive.testzip()
                if broken is not None:
                    raise ValueError(f"the checksum of {broken} is wrong")
            return torch.load(path, map_location="cpu", weights_only=True)
    except READ_ERRORS as error:
        raise ValueError(f"no file of plain tensors ({one_line(error)})") from None
    except Exception:  # a damaged pickle fails anywhere, and torch's own text advises to unpickle
        raise ValueError("no file of plain tensors") from None
