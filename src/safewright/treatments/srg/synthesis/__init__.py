"""Synthesis of reasoning: a teacher reasons by the guidelines, and what passes the filters is kept."""
