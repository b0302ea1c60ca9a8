"""What clients remember between rounds."""

from tff_lowrank.client_state.store import MemoryStore as MemoryStore
