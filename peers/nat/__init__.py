"""What a peer can find out of its own place in the network. docs/protocol.md §12."""
