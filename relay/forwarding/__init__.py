"""The forwarding processes, and how the control process runs and feeds them."""
