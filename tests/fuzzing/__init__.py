"""What `tests/fuzz.py` feeds to the verbs: damaged files, projects to damage, and cases of them."""
