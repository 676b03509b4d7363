"""What only `table4_translation.py` uses."""
