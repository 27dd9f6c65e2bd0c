"""Bytes to meaning and back. Pure; the only part of `relay` that `peers` may import."""
