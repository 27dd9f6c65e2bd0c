"""A laboratory of NATs: network namespaces, nftables, a shim that delays. docs/nat-matrix.md."""
