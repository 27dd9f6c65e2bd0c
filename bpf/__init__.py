"""Forwarding in the kernel: an XDP program, its maps, its loader. docs/kernel-path.md."""
