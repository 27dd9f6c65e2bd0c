"""The Quicpipe relay: forwards QUIC packets between registered peers and cannot read them."""
