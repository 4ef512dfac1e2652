"""The verbs: one file each, composing the rooms below."""
