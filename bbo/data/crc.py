"""The check sums of TFRecord files: CRC-32C, of many records at once."""

from collections.abc import Sequence

import numpy as np

POLYNOMIAL = 0x82F63B78
"""Castagnoli's, bits reversed."""
AT_ONCE = 1024
"""Records; so that little memory is taken."""


def _table() -> np.ndarray:
    values = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = np.where(values & 1, (values >> 1) ^ np.uint32(POLYNOMIAL), values >> 1)
    return values


TABLE = _table()


def crc32c(records: Sequence[bytes]) -> np.ndarray:
    """The CRC-32C of each record, uint32 [n] (Castagnoli et al. 1993; RFC 3720, appendix B.4).

    >>> [hex(crc) for crc in crc32c([b"123456789", b"", bytes(32)])]
    ['0xe3069283', '0x0', '0x8a9136aa']
    """
    parts = [_crc32c(records[i : i + AT_ONCE]) for i in range(0, len(records), AT_ONCE)]
    return np.concatenate([np.zeros(0, np.uint32), *parts])


def _crc32c(records: Sequence[bytes]) -> np.ndarray:
    lengths = np.array([len(record) for record in records])
    order = np.argsort(-lengths, kind="stable")  # those that are not at their end come first
    columns = np.zeros((lengths.max(), len(records)), np.uint8)
    for column, index in enumerate(order):
        columns[: lengths[index], column] = np.frombuffer(records[index], np.uint8)
    left = len(records) - np.searchsorted(np.sort(lengths), np.arange(len(columns)), side="right")
    crc = np.full(len(records), 0xFFFFFFFF, np.uint32)
    for byte, count in zip(columns, left, strict=True):
        now = crc[:count]
        crc[:count] = TABLE[(now ^ byte[:count]) & 0xFF] ^ (now >> 8)
    found = np.empty_like(crc)
    found[order] = ~crc
    return found


def masked_crc32c(records: Sequence[bytes]) -> np.ndarray:
    """As it is kept in TFRecord files: rotated by 15 bits, plus a constant; uint32 [n]."""
    crc = crc32c(records)
    return ((crc >> 15) | (crc << 17)) + np.uint32(0xA282EAD8)
