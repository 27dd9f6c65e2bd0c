"""How a relay lives: its state after a crash, the hand-over to a successor, the local commands.

records.py and journal.py are pure; the others touch files, sockets and the service manager.
"""
