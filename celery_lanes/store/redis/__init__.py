"""The lane store in Redis or Valkey: its verbs, their scripts, and how these are sent."""
