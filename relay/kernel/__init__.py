"""The relay's side of the program in the kernel: what feeds its maps and reads them back."""
