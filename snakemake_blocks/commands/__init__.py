"""What people start: one module per verb."""
