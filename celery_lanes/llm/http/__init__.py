"""HTTP to a provider: one deadline a call, typed failures; nobody else uses httpx."""
