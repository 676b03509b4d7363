"""Networks of the paper's experiments that are more than a few layers."""
