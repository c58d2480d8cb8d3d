"""What people see of a run, before, while and after it runs."""
