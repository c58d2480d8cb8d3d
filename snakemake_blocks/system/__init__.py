"""What there is on a host: files, locks, processes."""
