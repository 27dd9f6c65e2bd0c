"""Coverage-guided fuzzing of everything that is read off the wire: `make fuzz`."""
