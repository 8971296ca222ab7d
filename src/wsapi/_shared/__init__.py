"""What front-ends share, without I/O."""
