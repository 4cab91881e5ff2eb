"""What shell commands really do: run in a throwaway root, their effects recorded, labels computed from the effects.

The labels judge the rules, so nothing here uses the rule analyst or its parser.
"""
