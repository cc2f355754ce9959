"""Slots of a lane for code outside a task: a web view, a notebook, a script."""
