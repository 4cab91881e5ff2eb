"""Readers of commands, queries, pages and values: text in, structure out, never run."""
