"""Who is next, as plain values: the store's specification of it."""
