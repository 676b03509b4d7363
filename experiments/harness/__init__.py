"""What the experiments share: command line, statistics, tables and records."""
