"""All algorithms with all estimators on four tasks, in one table: see `__main__`."""
