"""The lane store in plain Python, for one process: the readable specification."""
