"""A model behind an OpenAI-compatible address that keeps its reasoning to itself.

`requests` reads what is asked, a source (`local`, `upstream`) gives raw text, `replies` shows what of it may be
seen and writes all of it into the log, `app` is the door.
"""
