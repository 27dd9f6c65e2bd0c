"""A relay at QHOST: `python -m example.server`. It runs until it is interrupted."""

import os
import sys

from relay.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["--listen", os.environ.get("QHOST", "127.0.0.1:4433")]))
