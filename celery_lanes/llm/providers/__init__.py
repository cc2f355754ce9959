"""Who serves models: a file for each API, and for each library that is asked in our stead."""
