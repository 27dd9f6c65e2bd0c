"""What --help says after the settings."""

EXAMPLES = """\
Each setting can be said in three ways; a flag wins over a variable, that over the file:
  --log-level debug                     a flag
  QUICPIPE_RELAY_LOG_LEVEL=debug        a variable: QUICPIPE_RELAY_ and the flag's name;
                                        QUICPIPE_XDP_... in the section [xdp]; lists by commas
  log-level = "debug"                   a line of the file (TOML); --xdp-iface is iface in [xdp]

examples:
  quicpipe-relay token --new-secret token.secret
  quicpipe-relay --token-secret-file token.secret
      every address of this machine, port 4433, a certificate of its own making
  quicpipe-relay token --token-secret-file token.secret --ttl 1h
      prints a token for a client
  quicpipe-relay --listen 192.0.2.1:443 --listen '[2001:db8::1]:443' --open \\
      --certificate fullchain.pem --private-key privkey.pem
      two addresses, with a certificate that peers can verify by name; for everybody
  quicpipe-relay --listen 127.0.0.1:0
      on loopback, on a port that is free: the line on stdout says which
  quicpipe-relay --admin-listen 127.0.0.1:9443 ...
      with metrics, an API and a web page for the operator: http://127.0.0.1:9443/
  QUICPIPE_XDP_IFACE=eth0,eth1 quicpipe-relay
      forward in the kernel (Linux, as root; docs/kernel-path.md)

commands, each with a --help of its own:
  quicpipe-relay token          make a token, or the secret for tokens
  quicpipe-relay check-config   say whether all settings are right, and what they are
  quicpipe-relay status         what the relay that runs here does
  quicpipe-relay reload         let it read its settings, certificate and revoked tokens anew
  quicpipe-relay drain          let it take nothing new, and end when nothing is left
  quicpipe-relay upgrade        let a new process, of the version that is installed now, go on
  quicpipe-relay top            what a relay does, live, in a terminal (needs admin-listen)
  quicpipe-relay xdp status     what the kernel does
  quicpipe-relay xdp detach     remove what forwards in the kernel

Started with the same control socket and addresses as a relay that runs, a relay takes over its
sockets and registrations, and the other one ends: no pipe breaks.

signals:
  SIGTERM, SIGINT   tell the clients, and end
  SIGHUP            reload, as the command; but if the terminal was closed, end
  SIGUSR1           log all counters
"""
