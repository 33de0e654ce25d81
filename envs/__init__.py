"""The search as Gymnasium environments.

Importing this package registers ``amc/Pruning-v0``; so does asking for it by its module, as in
``gymnasium.make("envs:amc/Pruning-v0")``. The entry point is a string that Gymnasium resolves when
an environment is made, and its arguments are a configuration's path or values, so that
``spec.to_json()`` works and imports flow one way.
"""

from __future__ import annotations

import gymnasium

PRUNING = "amc/Pruning-v0"

gymnasium.register(id=PRUNING, entry_point="amc.app:make_env")
