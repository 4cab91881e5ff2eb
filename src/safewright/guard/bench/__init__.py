"""How much a guard stops, and what it costs: replays and labelled calls, with floors and intervals."""
