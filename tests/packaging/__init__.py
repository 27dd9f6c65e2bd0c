"""What is in packaging/, and what docs/operating.md says."""
