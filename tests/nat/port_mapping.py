"""miniupnpd in a gateway: it opens ports for those inside, by UPnP-IGD, NAT-PMP and PCP."""

import os
import shutil
import subprocess
import time
from enum import Enum
from pathlib import Path

from tests.netns.processes import command

from .world import Gateway

MINIUPNPD = shutil.which("miniupnpd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
"""The program; None: it is not installed."""

_PATIENCE_S = 20.0


class PortMapping(Enum):
    """What the gateway speaks."""

    ALL = "UPnP, NAT-PMP, PCP"
    UPNP = "UPnP"
    NAT_PMP = "NAT-PMP, PCP"


class MiniUpnpd:
    """The process. Close it before the world."""

    def __init__(self, gateway: Gateway, folder: Path, speaks: PortMapping) -> None:
        """Start it; returns when it serves.

        :param folder: an empty one, for its files.
        """
        gateway.host.nft(_CHAINS)
        configuration = folder / "miniupnpd.conf"
        configuration.write_text(
            "\n".join(
                [
                    "ext_ifname=wan",
                    "listening_ip=lan",
                    "port=0",
                    f"enable_natpmp={_yes(speaks is not PortMapping.UPNP)}",
                    f"enable_upnp={_yes(speaks is not PortMapping.NAT_PMP)}",
                    "secure_mode=yes",
                    "upnp_table_name=upnp",
                    "upnp_nat_table_name=upnp",
                    "upnp_forward_chain=forwarded",
                    "upnp_nat_chain=mapped",
                    "upnp_nat_postrouting_chain=unmapped",
                    f"lease_file={folder / 'leases'}",
                    "uuid=00000000-0000-0000-0000-000000000000",
                    "allow 1024-65535 0.0.0.0/0 1024-65535",
                    "",
                ]
            )
        )
        # It looks for the multicast groups' route: an ordinary router has one.
        gateway.host.ip("route", "add", "239.0.0.0/8", "dev", "lan")
        program = [str(MINIUPNPD), "-d"]
        files = ["-f", str(configuration), "-P", str(folder / "pid")]
        with (folder / "log").open("w") as log:
            self._process = subprocess.Popen(
                [*command(gateway.host)[:2], *program, *files],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._log = folder / "log"
        ready = "HTTP listening" if speaks is PortMapping.UPNP else "Listening for NAT-PMP"
        deadline = time.monotonic() + _PATIENCE_S
        while ready not in self.log():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RuntimeError(f"miniupnpd does not serve: {self.log()}")
            time.sleep(0.02)

    def log(self) -> str:
        """What it has said."""
        return self._log.read_text()

    def close(self) -> None:
        """End it. It looks at the signal between two of its works, and may then wait for one."""
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _yes(value: bool) -> str:
    return "yes" if value else "no"


_CHAINS = """
table inet upnp {
  chain forward { type filter hook forward priority -10; jump forwarded; }
  chain forwarded { }
  chain prerouting { type nat hook prerouting priority dstnat - 10; jump mapped; }
  chain mapped { }
  chain postrouting { type nat hook postrouting priority srcnat - 10; jump unmapped; }
  chain unmapped { }
}
"""
