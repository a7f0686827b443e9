"""Object storage: objects below a URL, read whole or by ranges, and a cache of them on the local disk.

Knows bytes and their checksums; refuses to know what a store is.
"""

from memstore.storage.bucket import Bucket, Listed, Pending, Piece, Stored
from memstore.storage.place import Limits, as_url, cache_folder

__all__ = ["Bucket", "Limits", "Listed", "Pending", "Piece", "Stored", "as_url", "cache_folder"]
