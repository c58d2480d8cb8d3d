"""Arrays: where they lie, what they say of themselves, how they are read and written."""
