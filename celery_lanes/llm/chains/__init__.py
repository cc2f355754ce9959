"""The targets that a spec names, one after another: health, patience, one budget, one ledger."""
