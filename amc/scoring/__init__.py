"""The fast forward pass that networks are scored with: the same network, other code.

``program`` finds once a network which layers can run as one, ``layers`` runs them, ``library`` is
the compiled part.
"""
