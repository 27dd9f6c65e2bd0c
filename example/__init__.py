"""The shortest real use: a relay, a dialer and an accepter.

    python -m example.server
    python -m example.dialer | python -m example.accepter

The environment variable QHOST says where the relay is (`127.0.0.1:4433` if it is not set), and
QFINGERPRINT which one it is, where that is neither this machine nor one with a public certificate.
"""
