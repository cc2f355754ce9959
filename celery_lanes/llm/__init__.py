"""LLM providers: who serves ``provider/model``, and what a call costs."""
