"""One model of everything that an operator can choose: file, environment and flags alike. Pure
but for reading the file.

kinds.py says which values there are, declare.py how a field of a dataclass becomes a setting,
load.py puts together what the three sources say, arguments.py makes the flags. What the settings
*are* is said where they are used, in dataclasses that relay/config.py puts together.
"""
