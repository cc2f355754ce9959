"""A call on its way in: whose it is, what it says, how its message gets into the store."""
