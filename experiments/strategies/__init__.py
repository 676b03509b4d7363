"""What the experiments on search strategies share."""
