"""Meeting at the relay: by fingerprint or name (docs/protocol.md §10), or by a code (§11)."""
