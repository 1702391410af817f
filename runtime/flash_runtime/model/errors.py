"""What can go wrong between a model's source and its packed file. Each message is one line a user can act on.

ModelError
├── RequestError           what was asked for is not supported or contradicts itself
│   └── UnsupportedModel   an architecture, option or number format this release does not know
├── CheckpointError        weights or their metadata are missing, damaged or not what was pinned
├── DownloadError          the package index could not be reached or refused
└── StorageError           the cache or the target folder cannot be written
"""

from __future__ import annotations

from typing import ClassVar


class ModelError(Exception):
    """Base of this package's expected failures; `exit_code` is what `flash-pull` ends with."""

    exit_code: ClassVar[int] = 1


class RequestError(ModelError):
    """What was asked for is not supported or contradicts itself."""

    exit_code = 2


class UnsupportedModel(RequestError):
    """An architecture, option or number format this release does not know."""


class CheckpointError(ModelError):
    """Weights or their metadata are missing, damaged or not what was pinned."""

    exit_code = 3


class DownloadError(ModelError):
    """The package index could not be reached or refused."""

    exit_code = 4


class StorageError(ModelError):
    """The cache or the target folder cannot be written."""

    exit_code = 5
