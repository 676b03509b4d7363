"""What only `rosenbrock.py` uses."""
