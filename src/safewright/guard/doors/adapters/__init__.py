"""The guard as the tool guardrails of other frameworks: each a thin translation, without decisions of its own."""
