"""Stores of client state: what clients keep between rounds."""

from tff_lowrank.client_state.lmdb_store import LmdbStore as LmdbStore
from tff_lowrank.client_state.packing import Packing as Packing
from tff_lowrank.client_state.store import MemoryStore as MemoryStore
from tff_lowrank.client_state.store import Store as Store

__all__ = [
  'LmdbStore',
  'MemoryStore',
  'Packing',
  'Store',
]
