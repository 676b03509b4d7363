"""What only `table3_imagenet.py` uses."""
