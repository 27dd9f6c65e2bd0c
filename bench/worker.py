"""The relay's own forwarding process with a loop of our choice: `python -m bench.worker plain …`"""

import sys

from relay.forwarding.loops import make_loop, make_plain_loop
from relay.forwarding.worker import run_worker

if __name__ == "__main__":
    loops = {"batch": make_loop, "plain": make_plain_loop}
    sys.exit(run_worker(sys.argv[2:], loops[sys.argv[1]]))
