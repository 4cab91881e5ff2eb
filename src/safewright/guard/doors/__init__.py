"""Doors to the guard, thin and without decisions of their own: Python, hook, Inspect, HTTP, MCP, other frameworks."""
