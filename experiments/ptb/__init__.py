"""What only `table5_ptb.py` uses."""
