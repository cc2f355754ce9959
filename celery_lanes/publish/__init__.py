"""A call on its way in: which lane it goes to, whose it is, how its message gets into the store."""
