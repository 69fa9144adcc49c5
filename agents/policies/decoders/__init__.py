"""Decoders over a preallocated cache of keys and values: the quick ones for known architectures, and one for any other."""

from .choosing import cache_bytes, decoder_for
from .contract import Decoder
from .plain import why_not_fast

__all__ = ["Decoder", "cache_bytes", "decoder_for", "why_not_fast"]
