"""Which ranges of objects are read by one request. Knows positions, no bytes."""

from __future__ import annotations

from collections.abc import Iterable

from memstore.storage.values import Piece

GAP = 64 << 10  # bytes between two pieces that are read and dropped: they take less time than another request
SPAN = 1 << 20  # bytes of a request for several pieces, at most: larger ones come sooner side by side


def together(pieces: Iterable[Piece]) -> list[list[Piece]]:
    """The pieces in groups, each of one object and near each other, in the order of their positions.

    >>> [[p.offset for p in group] for group in together([Piece("a", 500_000, 9, all), Piece("a", 0, 9, all),
    ...                                                   Piece("a", 10, 9, all), Piece("b", 20, 9, all)])]
    [[0, 10], [500000], [20]]
    """
    groups: list[list[Piece]] = []
    first = last = 0  # of the group that is open
    for piece in sorted(pieces, key=lambda p: (p.key, p.offset, p.size)):
        end = piece.offset + piece.size
        if groups and groups[-1][0].key == piece.key and piece.offset <= last + GAP and end <= first + SPAN:
            groups[-1].append(piece)
            last = max(last, end)
        else:
            groups.append([piece])
            first, last = piece.offset, end
    return groups
