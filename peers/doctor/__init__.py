"""What network is this? The examination behind `quicpipe doctor`. docs/protocol.md §12.4."""
