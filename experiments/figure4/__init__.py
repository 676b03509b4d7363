"""What only `figure4_child.py` uses."""
