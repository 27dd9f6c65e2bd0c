"""What only time shows: a chaos run (`make chaos`) and a soak (`make soak`), with real processes.

Some pipes talk through one real relay while troubles come and go (chaos), or while pipes come and
go (soak). Whatever arrives is compared with what was sent: it can be recomputed from a seed.
"""
