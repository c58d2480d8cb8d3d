"""What is proved of a plan before anything runs."""
