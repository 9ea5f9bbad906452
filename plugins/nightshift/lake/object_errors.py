"""Errors of the object store."""

from __future__ import annotations

from nightshift.errors import ObjectStoreError


class ObjectMissingError(ObjectStoreError):
    """There is no such object."""

    code = "NS-LAKE-002"


class BucketMissingError(ObjectStoreError):
    """There is no such bucket."""

    code = "NS-LAKE-019"


class ObjectConflictError(ObjectStoreError):
    """The key holds other content already; objects are written once."""

    code = "NS-LAKE-003"
    is_retryable = False


class ObjectCorruptError(ObjectStoreError):
    """The bytes that came are not those that the digest names."""

    code = "NS-LAKE-004"
    is_retryable = False


class ObjectDamagedError(ObjectStoreError):
    """Every transfer was damaged, broken off or too slow."""

    code = "NS-LAKE-005"


class StoreFullError(ObjectStoreError):
    """The object store has no space left."""

    code = "NS-LAKE-006"


class ObjectTooLargeError(ObjectStoreError):
    """The content is larger than what one conditional put can hold."""

    code = "NS-LAKE-007"
    is_retryable = False


class StoreClockError(ObjectStoreError):
    """The store refuses requests since its clock and this machine's differ by a quarter hour."""

    code = "NS-LAKE-008"


class StoreCertificateError(ObjectStoreError):
    """The certificate of the store is not accepted: expired, or of another host or authority."""

    code = "NS-LAKE-009"
