"""Object storage: objects below a URL, read whole or by ranges, and a cache of them on the local disk.

Knows bytes and their checksums; refuses to know what a store is.
"""

from memstore.storage.bucket import Bucket
from memstore.storage.place import Limits, as_url, cache_folder
from memstore.storage.values import Listed, Pending, Piece, Stored, ends_in_crc32c

__all__ = ["Bucket", "Limits", "Listed", "Pending", "Piece", "Stored", "as_url", "cache_folder", "ends_in_crc32c"]
