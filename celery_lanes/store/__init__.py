"""The lane store: its verbs, and what keeps them."""
